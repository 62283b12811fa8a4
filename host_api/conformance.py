"""``python -m host_api.conformance``: one implementation behind the command line that all of them have.

Every command prints JSON on lines of their own. Exit status 0, or 1 with ``{"ok": false, "error": …}``.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from host_api.config import HostConfig
from host_api.errors import HostError, StateDirError
from host_api.host import SidecarHost
from host_api.manager import Manager
from host_api.process import LaunchSpec
from host_api.protocol.decision import (
    Compat,
    HealthAnswer,
    Identity,
    LockState,
    Observation,
    decide,
)
from host_api.protocol.lock import held
from host_api.protocol.record import RecordState
from host_api.protocol.restarts import Backoff


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options all commands share."""
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument("--command-json", default="[]", help="JSON list: the program and its first arguments")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--strict-port", action="store_true")
    parser.add_argument("--grace-time", type=float, default=10.0)
    parser.add_argument("--min-version", default="")
    parser.add_argument("--capability", action="append", default=[])
    parser.add_argument("--timeout", type=float, default=90.0)
    parser.add_argument("--hung-after", type=float, default=10.0)
    parser.add_argument("--start-timeout", type=float, default=60.0)
    parser.add_argument("--term-wait", type=float, default=5.0)
    parser.add_argument("--backoff-base", type=float, default=1.0)
    parser.add_argument("--supervise", action="store_true")
    parser.add_argument("--force", action="store_true")


def config_of(args: argparse.Namespace) -> HostConfig:
    """The configuration that the options describe."""
    return HostConfig(
        state_dir=args.state_dir,
        launch=LaunchSpec(
            command=tuple(json.loads(args.command_json)),
            port=args.port,
            strict_port=args.strict_port,
            grace_time=args.grace_time,
        ),
        min_version=args.min_version,
        capabilities=tuple(args.capability),
        timeout=args.timeout,
        hung_after=args.hung_after,
        start_timeout=args.start_timeout,
        term_wait=args.term_wait,
        backoff=Backoff(base=args.backoff_base),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="conformance")
    sub = parser.add_subparsers(dest="command", required=True)
    for name in ("ensure", "hold", "inspect", "stop", "client"):
        arguments(sub.add_parser(name))
    sub.add_parser("decide")
    args = parser.parse_args(argv)
    try:
        if args.command == "decide":
            return _decide()
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
    host.release()
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
    manager = Manager(config_of(args))
    obs = manager.observe(manager.patience()).observation
    hosts = "leaving" if held(manager.files.hosts_lock) else _hosts(manager)
    document = {name: str(getattr(obs, name)) for name in ("lock", "record", "identity", "answer", "compat")}
    launch = "held" if held(manager.files.launch_lock) else "free"
    _print({"ok": True, **document, "hosts": hosts, "launch": launch, "decision": str(decide(obs))})
    return 0


def _hosts(manager: Manager) -> str:
    from host_api.protocol.lock import FileLock

    lock = FileLock(manager.files.hosts_lock)
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
        )
        _print({"decision": str(decide(seen))})
    return 0


if __name__ == "__main__":
    sys.exit(main())
