"""How much of which prompts shares a pass with running rows. Pure; part of the policy (``scheduler``)."""

from __future__ import annotations

from collections.abc import Sequence

from sidecar.engine.actions import Prefilling, View
from sidecar.engine.costs import CHUNKS, Costs
from sidecar.engine.messages import Tier

SHARED_SLOWDOWN = 1.6
"""How long an interactive token may take with batch rows in its pass, in times of its own."""

SAME_PRICE = 1.5
"""Up to how many times the cost of the least piece of a prompt counts as the same."""

LEAST_PIECE = 8
"""Tokens of a chat's prompt that go along with a stream's token whatever they cost."""


def mixing(view: View, tier: Tier) -> list[Prefilling]:
    """Return the begun prompts of a tier that can share a pass with rows, the most urgent first."""
    prompts = [p for p in view.prefilling if p.tier is tier and p.mixes] if view.can_mix else []
    return sorted(prompts, key=lambda p: (p.priority, p.arrived, p.id))


def share_out(prompts: Sequence[Prefilling], room: int) -> tuple[tuple[int, int], ...]:
    """Share ``room`` tokens out among ``prompts``, the most urgent first."""
    pieces = []
    for prompt in prompts:
        tokens = min(prompt.remaining, room // prompt.rows)
        if tokens > 0:
            pieces.append((prompt.id, tokens))
            room -= tokens * prompt.rows
    return tuple(pieces)


def beside(view: View, costs: Costs, saved: float, *, shared: int, seconds: float) -> tuple[tuple[int, int], ...]:
    """Return the pieces for the interactive rows' own pass, with ``shared`` batch rows in it.

    A chat's prompt gets all that fits into ``seconds``, the rest of the gap, and ``LEAST_PIECE`` tokens at least.
    Batch prompts get what keeps the pass within ``SHARED_SLOWDOWN`` times the rows' own time. Where not even the least
    piece does (on a GPU a piece costs most by being begun), passes that were shorter pay for one: with ``saved``
    seconds it gets what comes at about that price, within the gap.
    """
    rows = view.rows[Tier.INTERACTIVE]
    own, base = costs.decode(rows), costs.decode(rows + shared)
    if not own:
        return ()
    if chats := mixing(view, Tier.INTERACTIVE):
        return share_out(chats, max(LEAST_PIECE, costs.piece(rows + shared, seconds)))
    prompts = mixing(view, Tier.BATCH)
    room = costs.piece(rows + shared, max(own * SHARED_SLOWDOWN, base))
    if prompts and not room:
        added = costs.mixed(rows + shared, CHUNKS[0]) - base
        most = min(base + added * SAME_PRICE, max(seconds, base + added))
        room = costs.piece(rows + shared, most) if added <= saved else 0
    return share_out(prompts, room)
