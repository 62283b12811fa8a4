"""A look at a state directory, and the words for what stands there. Looking changes nothing: no file, no mode."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from host_api.config import HostConfig
from host_api.connection import Connection, Status
from host_api.protocol import build, identity, restarts, state_dir
from host_api.protocol.decision import HealthAnswer, Identity, LockState
from host_api.protocol.lock import held
from host_api.protocol.probe import ask, port_holder
from host_api.protocol.record import Record, RecordState, parse_record, satisfies, version_tuple
from host_api.protocol.state_dir import Files
from host_api.protocol.states import Seen


@dataclass
class Look:
    """What ``look`` found beside the ``Seen`` of the machine."""

    seen: Seen
    record: Record | None = None
    health: dict[str, Any] | None = None
    holder: str | None = None


@dataclass
class Looker:
    """Looks at one state directory, and remembers what tells a slow sidecar from a hung one."""

    config: HostConfig
    files: Files
    poor: set[str] = field(default_factory=set)  # instances that this host's own program gave and that didn't do
    _cpu: tuple[str, int] = ("", 0)  # instance, clock ticks at the last quiet look

    def look(self, *, asked: bool = True, known: str = "", owner: bool = False) -> Look:
        """Look once. ``known``: the instance attached to; ``owner``: whether its owner matters. Raises StateDirError.

        The lock is looked at last: a sidecar that publishes takes it first, one that leaves lets go of it last.
        """
        config = self.config
        parsed = parse_record(state_dir.read_bytes(self.files.record))
        record, health = parsed.record, None
        seen = Seen(record=parsed.state, restarts=self.restarts())
        if record is not None:
            seen = seen._replace(instance=record.instance_id, managed=record.managed)
            if asked:
                answer, health = ask(record, timeout=config.probe_timeout)
                seen = self._judge(seen._replace(answer=answer, loading=_loading(health)), record, known)
                if owner and record.owner is not None:
                    who = identity.identify(record.owner.pid, record.owner.start_token, record.owner.namespace)
                    seen = seen._replace(owner_gone=who in (Identity.GONE, Identity.MISMATCH))
        if not asked:
            seen = seen._replace(answer=None)
        lock = LockState.HELD if held(self.files.sidecar_lock) else LockState.FREE
        launch, holder = config.launch, None
        if lock is LockState.FREE and launch.strict_port and launch.port:
            holder = port_holder(launch.host, launch.port)
        return Look(seen._replace(lock=lock, port_blocked=holder is not None), record, health, holder)

    def _judge(self, seen: Seen, record: Record, known: str) -> Seen:
        who = identity.identify(record.pid, record.start_token, record.namespace)
        fits = satisfies(record, self.config.min_version, self.config.capabilities)
        program = "unknown"
        if not fits or record.instance_id != known:
            program = self._program(record, fits=fits)
        busy, progress = False, 0
        if seen.answer in (HealthAnswer.REFUSED, HealthAnswer.SILENT) and who is Identity.MATCH:
            ticks, progress = identity.cpu_and_memory(record.pid)
            busy = self._cpu[0] == record.instance_id and ticks > self._cpu[1]
            self._cpu = (record.instance_id, ticks)
        return seen._replace(identity=who, fits=fits, build=program, busy=busy, progress=progress)

    def _program(self, record: Record, *, fits: bool) -> str:
        """Compare the running program with this host's own: ``same`` when the own one is known to be no better."""
        config = self.config
        if not fits and (record.instance_id in self.poor or not self._source_would_fit()):
            return "same"
        own = build.program_of(config.launch.command, config.launch.env)
        mine = build.fingerprint(own) if own is not None else None
        if record.build is None or mine is None:
            return "unknown"
        if record.build == mine:
            return "same"
        have, need = version_tuple(record.version), version_tuple(config.min_version)
        newer = have is not None and need is not None and have > need
        return "unknown" if fits and newer else "other"  # an older app doesn't undo a newer one's update

    def _source_would_fit(self) -> bool:
        """Whether the program from source, when that is what would be started, is new enough."""
        version = self.config.launch.source_version()
        need = version_tuple(self.config.min_version)
        have = version_tuple(version) if version else None
        return have is None or need is None or have >= need

    def restarts(self) -> restarts.Restarts:
        """Return the shared restart state."""
        return restarts.parse(state_dir.read_bytes(self.files.restarts))


def _loading(health: dict[str, Any] | None) -> bool:
    return health is not None and health.get("status") in ("loading", "starting")


def status(config: HostConfig) -> Status:
    """Return what there is in the configured state directory; changes nothing at all. Raises StateDirError."""
    root = state_dir.absolute(config.state_dir)
    state_dir.check(root)
    looker = Looker(config, Files(root))
    found = looker.look()
    seen, record = found.seen, found.record
    last = [[one.at, one.why] for one in seen.restarts.history]
    more: dict[str, Any] = {"failures": seen.restarts.failures, "history": last, "state_dir": str(root)}
    if seen.lock is LockState.FREE:
        return Status(state="stopped", **more)
    if record is None:
        return Status(state="starting" if seen.record is not RecordState.UNKNOWN_SCHEMA else "foreign", **more)
    states = {
        HealthAnswer.ECHO: "running",
        HealthAnswer.DRAINING: "draining",
        HealthAnswer.FAILED: "failed",
        HealthAnswer.OTHER: "foreign",
    }
    return Status(
        state=states.get(seen.answer or HealthAnswer.SILENT, "hung"),
        pid=record.pid,
        url=record.url,
        instance_id=record.instance_id,
        version=record.version,
        managed=record.managed,
        owner=record.owner.to_json() if record.owner else None,
        health=found.health if seen.answer is not HealthAnswer.OTHER else None,
        token=record.token,
        build=record.build,
        program=record.program,
        replaced=_replaced(record),
        **more,
    )


def _replaced(record: Record) -> bool | None:
    """Whether the program on disk is another than the one that runs; None when it can't be told."""
    if record.build is None or record.program is None:
        return None
    from pathlib import Path

    return build.fingerprint(Path(record.program)) != record.build


def current(config: HostConfig) -> Connection | None:
    """Return the running sidecar without becoming its host, or None. For one-off tools."""
    root = state_dir.absolute(config.state_dir)
    state_dir.check(root)
    found = Looker(config, Files(root)).look()
    if found.record is None or found.seen.lock is LockState.FREE or found.seen.answer is not HealthAnswer.ECHO:
        return None
    return Connection.of(found.record, "attached")


# --- words ------------------------------------------------------------------------------------------------
def explain(config: HostConfig, reason: str, look: Look, tail: str = "") -> str:
    """Say for people why a host can't go on, and what to do. ``reason`` is the machine's word."""
    record, seen, launch = look.record, look.seen, config.launch
    pid = f"pid {record.pid}" if record else "pid unknown"
    url = record.url if record else "its address"
    need = " and ".join(
        filter(None, (f"version {config.min_version}" if config.min_version else "", ", ".join(config.capabilities)))
    )
    have = f"{record.version} with {', '.join(record.capabilities) or 'no capabilities'}" if record else "unknown"
    program = " ".join(launch.command) or "the sidecar from source"
    soon = seen.restarts.wait(time.time(), config.backoff, 0.0)
    code = f"exit status {seen.child}" if seen.child.lstrip("-").isdigit() else "it was ended"
    sentences = {
        "port": f"port {launch.port} is taken by {look.holder}; free it, choose another with --port, "
        "or drop --strict-port",
        "schema": f"a sidecar of another protocol version runs in {config.state_dir}; update this program, "
        "or stop that sidecar",
        "record": f"a process holds {config.state_dir}/sidecar.lock and has published nothing usable "
        f"(sidecar.pid is {seen.record}); wait for it, or end that process by hand",
        "stranger": f"another program answers at {url}, the sidecar's address; it is left alone",
        "by_hand": f"the sidecar ({pid}) was started by hand and {_how_it_is(seen)}; stop it there, or stop with force",
        "needs_by_hand": f"the sidecar ({pid}, {have}) was started by hand and doesn't meet what is needed ({need}); "
        "stop it there, or stop with force",
        "needs_shared": f"the running sidecar ({pid}, {have}) doesn't meet what is needed ({need}) and others use it; "
        "close them first",
        "needs": f"{program} is {have}, which doesn't meet what this program needs ({need}); install a newer one",
        "unproved": f"the sidecar ({pid}) at {url} {_how_it_is(seen)}, and that process can't be proved to be it "
        f"({seen.identity}); stop it by hand",
        "quiet": f"the sidecar ({pid}) at {url} {_how_it_is(seen)}; wait for it, or stop it with force",
        "cannot_end": f"the sidecar ({pid}) can't be ended; end it by hand",
        "lock_kept": f"another program keeps {config.state_dir}/sidecar.lock from the sidecar (a shared hold); "
        "close that program",
        "leaving": "the last sidecar is taking too long to leave; try again, or stop it with force",
        "launch_busy": "another program is starting or stopping the sidecar and takes too long; try again",
        "waiting": f"no sidecar was ready in time: {_what_there_is(look)}; try again",
        "starting": "the sidecar is still starting; call again to wait on",
        "backing_off": f"the sidecar crashed {seen.restarts.failures} times in a row; next start in {soon:.0f} s",
        "elsewhere": "another program's start of the sidecar failed just now",
        "exit": f"the sidecar didn't start ({code})",
        "exit_again": f"the sidecar didn't start in {config.attempts} attempts ({code})",
        "no_answer_again": f"the sidecar didn't start (no answer in {config.start_timeout:g} s)",
        "program": f"the sidecar program can't be run: {tail or program}; check the configured command",
        "others": "other programs use the sidecar; let them go first, or stop with force",
        "gave_up": f"the sidecar failed {seen.restarts.failures} times in a row, last: {_last(seen)}; it isn't started "
        "again until it is asked for",
    }
    return sentences.get(reason, reason)


def _how_it_is(seen: Seen) -> str:
    if seen.answer in (HealthAnswer.REFUSED, HealthAnswer.SILENT):
        return "doesn't answer"
    return {HealthAnswer.DRAINING: "is about to leave", HealthAnswer.FAILED: "has failed"}.get(
        seen.answer or HealthAnswer.ECHO, "runs"
    )


def _what_there_is(look: Look) -> str:
    if look.seen.lock is LockState.FREE:
        return "none runs"
    if look.record is None:
        return f"one is starting (sidecar.pid is {look.seen.record})"
    return f"the one there is (pid {look.record.pid}) {_how_it_is(look.seen)}"


def _last(seen: Seen) -> str:
    return seen.restarts.history[-1].why if seen.restarts.history else "crashed"
