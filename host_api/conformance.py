"""``python -m host_api.conformance``: one implementation behind the command line that all of them have.

Every command prints JSON on lines of their own. Exit status 0, or 1 with ``{"ok": false, "error": …}``.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from host_api.config import HostConfig
from host_api.errors import HostError, StateDirError
from host_api.host import SidecarHost
from host_api.observe import Looker
from host_api.process import LaunchSpec
from host_api.protocol import trace
from host_api.protocol.decision import (
    Compat,
    HealthAnswer,
    Identity,
    LockState,
    Observation,
    decide,
)
from host_api.protocol.judgement import decision_of
from host_api.protocol.lock import FileLock, held
from host_api.protocol.record import RecordState
from host_api.protocol.restarts import Backoff
from host_api.protocol.state_dir import Files
from host_api.protocol.states import Goal, State


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options all commands share."""
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument("--command-json", default="[]", help="JSON list: the program and its first arguments")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--strict-port", action="store_true")
    parser.add_argument("--grace-time", type=float, default=10.0)
    parser.add_argument("--model-dir", type=Path, action="append", default=[])
    parser.add_argument("--bundled-data-dir", type=Path, action="append", default=[])
    parser.add_argument("--min-version", default="")
    parser.add_argument("--capability", action="append", default=[])
    parser.add_argument("--timeout", type=float, default=90.0)
    parser.add_argument("--hung-after", type=float, default=10.0)
    parser.add_argument("--start-timeout", type=float, default=60.0)
    parser.add_argument("--term-wait", type=float, default=5.0)
    parser.add_argument("--give-up", type=int, default=8)
    parser.add_argument("--backoff-base", type=float, default=1.0)
    parser.add_argument("--supervise", action="store_true")
    parser.add_argument("--force", action="store_true")
    parser.add_argument("--timed", action="store_true", help="hold: say at the end how long letting go took")


def config_of(args: argparse.Namespace) -> HostConfig:
    """The configuration that the options describe."""
    return HostConfig(
        state_dir=args.state_dir,
        launch=LaunchSpec(
            command=tuple(json.loads(args.command_json)),
            port=args.port,
            strict_port=args.strict_port,
            grace_time=args.grace_time,
            model_dirs=tuple(args.model_dir),
            bundled_data_dirs=tuple(args.bundled_data_dir),
            # The test's sidecars are modules of this tree; an environment of their own leaves that out.
            env={"PYTHONPATH": os.environ.get("PYTHONPATH", "")},
        ),
        min_version=args.min_version,
        capabilities=tuple(args.capability),
        timeout=args.timeout,
        hung_after=args.hung_after,
        start_timeout=args.start_timeout,
        term_wait=args.term_wait,
        give_up=args.give_up,
        backoff=Backoff(base=args.backoff_base),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="conformance")
    sub = parser.add_subparsers(dest="command", required=True)
    for name in ("ensure", "hold", "inspect", "stop", "client"):
        arguments(sub.add_parser(name))
    sub.add_parser("decide")
    sub.add_parser("machine")
    args = parser.parse_args(argv)
    try:
        if args.command == "decide":
            return _decide()
        if args.command == "machine":
            return _machine()
        commands = {"ensure": _ensure, "hold": _hold, "inspect": _inspect, "stop": _stop, "client": _client}
        return commands[args.command](args)
    except (HostError, StateDirError) as exc:
        _print({"ok": False, "error": {"code": getattr(exc, "code", "state_dir"), "message": str(exc)}})
        return 1


def _print(document: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


def _ensure(args: argparse.Namespace) -> int:
    host = SidecarHost(config_of(args), supervise=False)
    _print({"ok": True, "connection": host.ensure_running().to_json()})
    host.release()
    return 0


def _hold(args: argparse.Namespace) -> int:
    """Ensure, then hold until the end of input or SIGTERM; with --supervise, events follow."""
    host = SidecarHost(config_of(args), supervise=args.supervise)
    done = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: done.set())
    events = host.events()
    _print({"ok": True, "connection": host.ensure_running().to_json()})

    def pump() -> None:
        for event in events:
            if event.kind != "ready":
                to = event.connection.to_json() if event.connection else None
                _print({"event": event.kind, "detail": event.detail, "connection": to})

    threading.Thread(target=pump, daemon=True).start()

    def input_end() -> None:
        sys.stdin.read()
        done.set()

    threading.Thread(target=input_end, daemon=True).start()
    done.wait()
    began = time.perf_counter()
    host.release()
    if args.timed:
        _print({"event": "released", "seconds": time.perf_counter() - began})
    return 0


def _client(args: argparse.Namespace) -> int:
    """Ensure, then answer for each path on standard input with the status and body of its GET."""
    with SidecarHost(config_of(args), supervise=False) as host:
        connection = host.ensure_running()
        _print({"ok": True, "connection": connection.to_json()})
        with connection.client() as client:
            for line in sys.stdin:
                answer = client.get(line.strip())
                _print({"status": answer.status_code, "body": answer.json()})
    return 0


def _inspect(args: argparse.Namespace) -> int:
    config = config_of(args)
    files = Files(config.state_dir)
    seen = Looker(config, files).look().seen
    compat = Compat.OK if seen.fits else Compat.ALONE
    state = State(policy=config.policy(), goal=Goal.ENSURE)
    document = {name: str(getattr(seen, name)) for name in ("lock", "record", "identity", "answer")}
    document |= {"compat": str(compat), "decision": str(decision_of(state, seen, compat))}
    hosts = "leaving" if held(files.hosts_lock) else _hosts(files)
    _print({"ok": True, **document, "hosts": hosts, "launch": "held" if held(files.launch_lock) else "free"})
    return 0


def _hosts(files: Files) -> str:
    try:
        lock = FileLock(files.hosts_lock, create=False)
    except FileNotFoundError:
        return "none"
    try:
        return "none" if lock.try_exclusive() else "held"
    finally:
        lock.close()


def _stop(args: argparse.Namespace) -> int:
    _print({"ok": True, "stopped": SidecarHost(config_of(args), supervise=False).stop(force=args.force)})
    return 0


def _decide() -> int:
    """One observation a line on standard input, one decision a line on standard output."""
    for line in sys.stdin:
        row = json.loads(line)
        seen = Observation(
            lock=LockState(row["lock"]),
            record=RecordState(row["record"]),
            identity=Identity(row["identity"]),
            answer=HealthAnswer(row["answer"]),
            compat=Compat(row["compat"]),
            overdue=row["overdue"],
            port_blocked=row["port_blocked"],
            managed=row["managed"],
        )
        _print({"decision": str(decide(seen))})
    return 0


def _machine() -> int:
    """One schedule a line on standard input, what the machine made of it a line on standard output."""
    for line in sys.stdin:
        _print(trace.run(json.loads(line)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
