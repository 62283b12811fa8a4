"""The commands of ``mlx-sidecar``. Each imports what it needs when it runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from host_api.ownership import ExitCode
from sidecar import __version__, config
from sidecar.config import ConfigError


def run(argv: list[str]) -> int:
    """Parse ``argv`` and run its command; returns the exit status."""
    parser = _parser()
    args = parser.parse_args(argv)
    command: Callable[[argparse.Namespace], int] | None = getattr(args, "command", None)
    if command is None:
        parser.print_help()
        return 2
    try:
        return command(args)
    except ConfigError as exc:
        sys.stderr.write(f"mlx-sidecar: {exc}\n")
        return int(ExitCode.CONFIG)
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mlx-sidecar", description="A private MLX model server.")
    sub = parser.add_subparsers(title="commands")
    serve = sub.add_parser("serve", help="run the server")
    config.add_arguments(serve)
    serve.set_defaults(command=_serve)
    version = sub.add_parser("version", help="print the version")
    version.add_argument("--json", action="store_true")
    version.set_defaults(command=_version)
    return parser


def _serve(args: argparse.Namespace) -> int:
    from sidecar import server

    return server.run(config.load(args))


def _version(args: argparse.Namespace) -> int:
    text = f'{{"version": "{__version__}"}}' if args.json else __version__
    sys.stdout.write(text + "\n")
    return 0
