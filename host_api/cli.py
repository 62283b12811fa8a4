"""``mlx-host``: start, watch and stop the sidecar from a terminal."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shlex
import signal
import sys
import time
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from host_api.config import HostConfig
from host_api.connection import Event
from host_api.errors import HostError, StateDirError
from host_api.extras import MissingExtra, require
from host_api.host import SidecarHost
from host_api.observe import status
from host_api.process import LaunchSpec
from host_api.protocol.state_dir import default_state_dir


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 1 after an error or when nothing runs."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["serve"]:
        try:
            require("host", "mlx-host serve")
        except MissingExtra as exc:
            sys.stderr.write(f"mlx-host: {exc}\n")
            return 78
        return int(importlib.import_module("host_api.app.server").serve(words[1:]))  # its libraries are an extra
    args = _parser().parse_args(words)
    try:
        return int(args.run(args))
    except (HostError, StateDirError) as exc:
        if args.json:
            _out({"ok": False, "error": {"code": getattr(exc, "code", "state_dir"), "message": str(exc)}})
        else:
            sys.stderr.write(f"mlx-host: {exc}\n")
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mlx-host", description="Start, watch and stop the sidecar.")
    sub = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, run, text in (
        ("ensure", _ensure, "start the sidecar, or attach to it, and print where it is"),
        ("status", _status, "show the sidecar; changes nothing"),
        ("stop", _stop, "stop the sidecar"),
        ("watch", _watch, "keep the sidecar running and print what happens, until interrupted"),
    ):
        one = sub.add_parser(name, help=text, description=text)
        one.set_defaults(run=run)
        one.add_argument("--json", action="store_true", help="print JSON")
        one.add_argument(
            "--state-dir",
            type=Path,
            default=Path(os.environ.get("MLX_SIDECAR_STATE_DIR") or default_state_dir()),
            help="folder of locks and sidecar.pid [MLX_SIDECAR_STATE_DIR]",
        )
        if name in ("ensure", "watch"):
            one.add_argument("--command", default="", help="the sidecar program; default: from source")
            one.add_argument("--port", type=int, default=int(os.environ.get("MLX_SIDECAR_PORT") or 60316))
            one.add_argument("--strict-port", action="store_true", help="fail when the port is taken")
            one.add_argument("--model", default="", help="model to load at start")
            one.add_argument("--grace-time", type=float, default=10.0, help="seconds it stays without a host")
            one.add_argument("--timeout", type=float, default=90.0, help="seconds to wait")
        if name == "stop":
            one.add_argument("--force", action="store_true", help="stop it although others use it")
    page = sub.add_parser("open", help="open the host service's page, with its key", description="Open the page.")
    page.set_defaults(run=_open, json=False)
    page.add_argument(
        "--data-dir",
        type=Path,
        default=Path(os.environ["MLX_HOST_DATA_DIR"]) if os.environ.get("MLX_HOST_DATA_DIR") else None,
        help="the service's data directory [MLX_HOST_DATA_DIR]",
    )
    page.add_argument("--print", action="store_true", dest="show", help="print the file that opens it instead")
    sub.add_parser("serve", help="run the host service (needs the [host] extra)", add_help=False)
    return parser


def _open(args: argparse.Namespace) -> int:
    app = importlib.import_module("host_api.app.access")
    folder = args.data_dir or importlib.import_module("host_api.app.config").default_data_dir()
    found = app.found(folder.expanduser())
    if found is None:
        sys.stderr.write("mlx-host: no service has run here yet; start one with: mlx-host serve\n")
        return 1
    url, page = found
    if args.show:
        sys.stdout.write(f"{page}\n")
        return 0
    if not app.lives(url):
        sys.stderr.write(f"mlx-host: the service does not answer at {url}; start it with: mlx-host serve\n")
        return 1
    if not webbrowser.open(page.as_uri()):
        sys.stderr.write(f"mlx-host: no browser could be started; open {page}\n")
        return 1
    return 0


def _config(args: argparse.Namespace) -> HostConfig:
    if not hasattr(args, "port"):
        return HostConfig(state_dir=args.state_dir.expanduser())
    return HostConfig(
        state_dir=args.state_dir.expanduser(),
        timeout=args.timeout,
        launch=LaunchSpec(
            command=tuple(shlex.split(args.command)),
            port=args.port,
            strict_port=args.strict_port,
            grace_time=args.grace_time,
            model=args.model,
        ),
    )


def _out(document: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def _ensure(args: argparse.Namespace) -> int:
    host = SidecarHost(_config(args), supervise=False)
    connection = host.ensure_running()
    host.release()
    if args.json:
        _out({"ok": True, "connection": connection.to_json()})
    else:
        sys.stdout.write(f"{connection.how} {connection.url} pid {connection.pid}\n")
    return 0


def _status(args: argparse.Namespace) -> int:
    found = status(_config(args))
    if args.json:
        _out({"ok": True, **found.to_json()})
    else:
        where = f" at {found.url}, pid {found.pid}, version {found.version}" if found.pid else ""
        sys.stdout.write(f"{found.state}{where}\n")
        if found.replaced:
            sys.stdout.write(f"{found.program} was replaced or removed since: the sidecar leaves when it notices\n")
        for at, why in found.history:
            sys.stdout.write(f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(at))} {why}\n")
    return 0 if found.state in ("running", "starting", "draining") else 1


def _stop(args: argparse.Namespace) -> int:
    stopped = SidecarHost(_config(args), supervise=False).stop(force=args.force)
    if args.json:
        _out({"ok": True, "stopped": stopped})
    else:
        sys.stdout.write("stopped\n" if stopped else "not running\n")
    return 0


def _watch(args: argparse.Namespace) -> int:
    host = SidecarHost(_config(args))
    events = host.events()

    def show(event: Event) -> None:
        if args.json:
            to = event.connection.to_json(token=False) if event.connection else None
            _out({"event": event.kind, "detail": event.detail, "connection": to})
        else:
            where = f" {event.connection.url} pid {event.connection.pid}" if event.connection else ""
            sys.stdout.write(f"{event.kind}{where} {event.detail}".rstrip() + "\n")
            sys.stdout.flush()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        host.ensure_running()
        for event in events:
            show(event)
            if event.kind == "stopped":
                return 0
    except KeyboardInterrupt:
        return 0
    finally:
        host.release()
    return 0


if __name__ == "__main__":
    sys.exit(main())
