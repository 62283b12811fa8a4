"""How much of which prompts shares a pass with rows, and which with one another. Pure; a part of ``scheduler``."""

from __future__ import annotations

from collections.abc import Sequence

from sidecar.engine.actions import Prefilling, View, Waiting
from sidecar.engine.costs import CHUNKS, Costs, chunk_class, filled
from sidecar.engine.messages import Tier

SHARED_SLOWDOWN = 1.65
"""How long passes of interactive tokens may take on average with batch work in them, in times of their own.

Rows that join and leave come on top: a chat's mean is then 1.7."""

SAME_PRICE = 1.5
"""Up to how many times the cost of the least piece of a prompt counts as the same."""

LEAST_PIECE = 8
"""Tokens of a chat's prompt that go along with a stream's token whatever they cost."""

GROUP_SECONDS = 5.0
"""Seconds all prompts of a group may take together: the first of them waits that long for its token.

Sixteen prompts of 64 tokens are one group of the starter's then (4.2 s by its costs). In two groups, nine and seven by
the same costs, rows begin and end apart, in passes that are not full; all sixteen took 11 % longer than in one.
"""

GROUP_SPREAD = 1.25
"""How much longer than the shortest a prompt of a group may be: the shorter ones are padded."""


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


def beside(
    view: View, costs: Costs, saved: float, *, shared: int, usual: float, smooth: float, seconds: float
) -> tuple[tuple[int, int], ...]:
    """Return the pieces for the interactive rows' own pass, with ``shared`` batch rows in it.

    A chat's prompt gets all that fits into ``seconds``, the rest of the gap, and ``LEAST_PIECE`` tokens at least.
    Batch prompts get what keeps the pass within ``usual`` seconds, or nothing where it does more to wait for a pass of
    up to ``smooth``. Where not even the least piece fits that (on a GPU a piece costs most by being begun), passes that
    were shorter pay for one: with ``saved`` seconds it gets what comes at about that price, within the gap.
    """
    rows = view.rows[Tier.INTERACTIVE]
    own, base = costs.decode(rows), costs.decode(rows + shared)
    if not own:
        return ()
    if chats := mixing(view, Tier.INTERACTIVE):
        return share_out(chats, max(filled(rows + shared, LEAST_PIECE), costs.piece(rows + shared, seconds)))
    prompts = mixing(view, Tier.BATCH)
    room = costs.bargain(rows + shared, max(usual, base), smooth)
    if prompts and not room:
        added = costs.mixed(rows + shared, CHUNKS[0]) - base
        most = min(base + added * SAME_PRICE, max(seconds, base + added))
        room = costs.piece(rows + shared, most) if added <= saved else 0
    return share_out(prompts, room)


def group_with(first: Waiting, queue: Sequence[Waiting], room_for: int, costs: Costs) -> tuple[int, ...]:
    """Return who is processed together with ``first``.

    Prompts of about its length, as many as can be processed in ``GROUP_SECONDS``.
    """
    group: list[int] = []
    if first.images or first.alone or not first.tokens:
        return ()
    low = high = first.tokens
    for other in queue:
        if len(group) + 1 >= room_for:
            break
        if other.id == first.id or other.images or other.alone or not (other.fits and other.tokens):
            continue
        if other.priority != first.priority:
            continue
        shortest, longest = min(low, other.tokens), max(high, other.tokens)
        cost = costs.of("prefill", chunk_class(longest)) * (len(group) + 2)
        if longest > GROUP_SPREAD * shortest or cost > GROUP_SECONDS:
            continue
        low, high = shortest, longest
        group.append(other.id)
    return tuple(group)
