"""What the machine remembers, sees and asks for: plain data, see ``machine.py``."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import NamedTuple

from host_api.protocol.decision import HealthAnswer, Identity, LockState
from host_api.protocol.record import RecordState
from host_api.protocol.restarts import Backoff, Restarts

NEVER = 1e9  # a deadline that doesn't come, seconds
LOOK = 1.0  # seconds between looks while all is well
HEALTH = 5.0  # seconds between health checks while all is well


class Goal(enum.StrEnum):
    """What the machine is for."""

    ENSURE = "ensure"
    WATCH = "watch"
    STOP = "stop"


class Phase(enum.StrEnum):
    """Where in it the host is."""

    LOOKING = "looking"
    BACKING_OFF = "backing_off"
    STARTING = "starting"
    ENDING = "ending"
    KILLING = "killing"
    ATTACHED = "attached"
    DEAD = "dead"
    IDLE = "idle"


class Hold(enum.StrEnum):
    """A hold on ``hosts.lock``."""

    NONE = "none"
    SHARED = "shared"
    EXCLUSIVE = "exclusive"


class Launch(enum.StrEnum):
    """Who holds ``launch.lock``."""

    MINE = "mine"
    FREE = "free"
    OTHER = "other"


@dataclass(frozen=True, kw_only=True)
class Policy:
    """The numbers of a host, seconds where nothing else is said. ``give_up``: failures until a watch is dead."""

    timeout: float = 90.0
    start_timeout: float = 60.0
    hung_after: float = 10.0
    drain_after: float = 30.0
    term_wait: float = 5.0
    stop_wait: float = 25.0
    attempts: int = 3
    give_up: int = 8
    backoff: Backoff = field(default_factory=Backoff)


class Seen(NamedTuple):
    """One look.

    ``answer`` None: the address wasn't asked. ``fits``: version and capabilities meet the needs. ``build``: the running
    program against this host's own: same (as good as any it could start), other, or unknown. ``child``: the process
    this host started: none, runs, unrunnable, or the text of its exit status; ``tail``: its last lines. ``moved``: the
    state directory isn't the one that was attached in. ``fault``: why the look failed. ``owner_gone``: the owner in the
    record has ended. ``busy``: the sidecar's process has used the CPU since the last look; ``progress``: anything that
    changes while it loads; ``lag``: seconds by which this look came later than it was asked for.
    """

    wall: float = 0.0
    jitter: float = 0.0
    hosts: Hold = Hold.NONE
    launch: Launch = Launch.FREE
    lock: LockState = LockState.FREE
    record: RecordState = RecordState.ABSENT
    instance: str = ""
    identity: Identity = Identity.GONE
    answer: HealthAnswer | None = HealthAnswer.REFUSED
    loading: bool = False
    progress: int = 0
    busy: bool = False
    lag: float = 0.0
    managed: bool = True
    fits: bool = True
    build: str = "unknown"
    port_blocked: bool = False
    child: str = "none"
    moved: bool = False
    owner_gone: bool = False
    fault: str = ""
    tail: str = ""
    restarts: Restarts = Restarts()


class Action(NamedTuple):
    """What the driver does.

    ``save`` (``restarts``), ``clear`` a dead sidecar's record, ``spawn``, ``kill_child``, ``terminate`` and ``kill``
    the process of ``word`` (an instance), ``adopt``, and ``event`` (``word``: its kind, ``detail``).
    """

    kind: str
    word: str = ""
    detail: str = ""
    restarts: Restarts | None = None


@dataclass(frozen=True, kw_only=True)
class State:
    """Everything a host remembers between two looks. ``outcome`` and ``reason`` are words, see the protocol."""

    policy: Policy
    goal: Goal
    phase: Phase = Phase.LOOKING
    hosts: Hold = Hold.SHARED  # wanted
    launch: bool = False  # wanted
    ask: bool = True  # whether the next look asks the address for its health
    pause: float = 0.0
    deadline: float = NEVER
    until: float = 0.0  # of BACKING_OFF, ENDING and KILLING
    force: bool = False
    joined: bool = False  # held hosts.lock before a stop
    instance: str = ""  # attached to, or being ended
    first_attempt: int = -1
    mark: tuple[int, float] = (0, 0.0)  # failures and last failure when it attached
    starts: int = 0
    races: int = 0
    waited: bool = False  # the back-off before the next start was waited out
    alone_since: float = -1.0
    key: str = ""  # patience: what hasn't changed
    at: float = 0.0
    quiet_for: float = 0.0
    looks: int = 0
    was_loading: bool = False
    progress: int = 0
    next_ask: float = 0.0
    told: str = ""  # the failure that was last told
    outcome: str = ""
    reason: str = ""


Step = tuple[State, tuple[Action, ...]]


def ensure(policy: Policy, now: float, known: str = "") -> State:
    """Begin to ensure; ``known``: the instance this host is attached to already."""
    return State(policy=policy, goal=Goal.ENSURE, deadline=now + policy.timeout, instance=known)


def stop(policy: Policy, now: float, *, force: bool, joined: bool) -> State:
    """Begin to stop; ``joined``: this host holds the hosts lock."""
    hosts = Hold.SHARED if joined else Hold.NONE
    return State(
        policy=policy,
        goal=Goal.STOP,
        deadline=now + policy.timeout,
        force=force,
        joined=joined,
        hosts=hosts,
        launch=True,
    )


def watch(policy: Policy, now: float, instance: str, restarts: Restarts) -> State:
    """Begin to watch the sidecar that was just attached to."""
    return State(
        policy=policy,
        goal=Goal.WATCH,
        phase=Phase.ATTACHED,
        instance=instance,
        mark=(restarts.failures, restarts.last_failure),
        pause=LOOK,
        ask=False,
        next_ask=now + HEALTH,
    )
