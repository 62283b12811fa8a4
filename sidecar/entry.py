"""Console script ``mlx-sidecar``: what the frozen program and ``python -m sidecar.entry`` run."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
from collections.abc import Sequence

_CONFIG = 78  # EX_CONFIG of sysexits.h, host_api.protocol.decision's too: a host starts nothing of it again


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    multiprocessing.freeze_support()
    words = list(sys.argv[1:] if argv is None else argv)
    if argv is None and words[:1] == ["serve"] and "--managed" in words:
        close_inherited()
    from sidecar.process import onefile, whole

    if words[:1] in (["serve"], ["chat"]) and (problem := whole.problem()):
        sys.stderr.write(f"mlx-sidecar: {problem}\n")
        return _CONFIG
    onefile.prepare()
    try:
        from sidecar.cli.main import run

        return run(words)
    except (ImportError, OSError):
        if not (problem := whole.problem()):
            raise
        sys.stderr.write(f"mlx-sidecar: {problem}\n")
        return _CONFIG


def close_inherited() -> None:
    """Close what a host had open and let through: its sockets and files would stay open for as long as this runs.

    Called before anything is opened here. Python hosts let nothing through; others do unless they take care.
    """
    with contextlib.suppress(OSError):
        for name in os.listdir("/dev/fd"):  # noqa: PTH208 - names alone
            if name.isdigit() and int(name) > 2:
                with contextlib.suppress(OSError):
                    os.close(int(name))


if __name__ == "__main__":
    sys.exit(main())
