"""What the engine can do next, and what it decides that from. Plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from sidecar.engine.messages import Tier


@dataclass(frozen=True)
class Begin:
    """Take a request from the queue: embed it, its images included. ``group_with``: others to process with it."""

    id: int
    group_with: tuple[int, ...] = ()


@dataclass(frozen=True)
class Prefill:
    """Process up to ``tokens`` of a begun prompt, of each prompt of a group. All that remain: its first token too."""

    id: int
    tokens: int


@dataclass(frozen=True)
class Decode:
    """One token for every running row of a tier. ``shared_rows``: batch rows in the interactive rows' own pass.

    ``pieces``: prompts, and how many tokens of each (of each prompt of a group) are processed in the same pass.
    """

    tier: Tier
    shared_rows: int = 0
    pieces: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Encode:
    """Go on with the image on top of the stack."""


@dataclass(frozen=True)
class Call:
    """One unit of other work (an embedding batch)."""

    id: int


@dataclass(frozen=True)
class Idle:
    """Nothing to do."""


Action = Begin | Prefill | Decode | Encode | Call | Idle


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A queued request. ``fits``: its KV cache has room now. ``tokens``: of its prompt. ``alone``: in no group."""

    id: int
    tier: Tier
    priority: int
    arrived: float
    tokens: int = 0
    images: bool = False
    alone: bool = False
    fits: bool = True


@dataclass(frozen=True, kw_only=True)
class Prefilling:
    """A begun prompt, or a group of ``rows``. ``whole``: it can't be cut. ``remaining``: tokens, of the longest.

    ``mixes``: its pieces can share the pass of running rows.
    """

    id: int
    tier: Tier
    priority: int
    arrived: float
    remaining: int
    rows: int = 1
    whole: bool = False
    mixes: bool = False


@dataclass(frozen=True, kw_only=True)
class Unit:
    """Other work, taken a unit at a time."""

    id: int
    tier: Tier
    arrived: float


@dataclass(frozen=True, kw_only=True)
class View:
    """The engine's state at a decision.

    ``rows``: running, by tier. ``shared_rows``: batch rows in the interactive rows' pass now; ``can_share``:
    whether they can be. ``can_mix``: whether prompts can share a pass with rows.
    ``encoding``: tiers of paused images, the topmost last.
    """

    waiting: Sequence[Waiting] = ()
    prefilling: Sequence[Prefilling] = ()
    rows: Mapping[Tier, int] = field(default_factory=dict)
    shared_rows: int = 0
    can_share: bool = True
    can_mix: bool = False
    encoding: Sequence[Tier] = ()
    calls: Sequence[Unit] = ()


def without_batch(view: View) -> View:
    """Return a view as if there were no batch work, but for a picture that is being looked at already."""
    return replace(
        view,
        waiting=tuple(w for w in view.waiting if w.tier is not Tier.BATCH),
        prefilling=tuple(p for p in view.prefilling if p.tier is not Tier.BATCH),
        rows={**view.rows, Tier.BATCH: 0},
        shared_rows=0,
        calls=tuple(c for c in view.calls if c.tier is not Tier.BATCH),
    )


def has_work(view: View, tier: Tier) -> bool:
    """Return whether a tier has anything queued or running."""
    return bool(
        view.rows.get(tier)
        or any(w.tier is tier for w in view.waiting)
        or any(p.tier is tier for p in view.prefilling)
        or tier in view.encoding
        or any(c.tier is tier for c in view.calls)
    )


def tier_of(action: Action, view: View) -> Tier:
    """Return the tier that an action of ``view`` works for."""
    if isinstance(action, Decode):
        return action.tier
    if isinstance(action, Encode):
        return view.encoding[-1]
    if isinstance(action, Prefill):
        return next(p.tier for p in view.prefilling if p.id == action.id)
    if isinstance(action, Begin):
        return next(w.tier for w in view.waiting if w.id == action.id)
    if isinstance(action, Call):
        return next(c.tier for c in view.calls if c.id == action.id)
    return Tier.INTERACTIVE
