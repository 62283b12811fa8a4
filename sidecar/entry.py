"""Console script ``mlx-sidecar``: what the frozen program and ``python -m sidecar.entry`` run."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Sequence

_CONFIG = 78  # EX_CONFIG of sysexits.h, host_api.protocol.decision's too: a host starts nothing of it again


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    multiprocessing.freeze_support()
    from sidecar.process import onefile, whole

    words = list(sys.argv[1:] if argv is None else argv)
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


if __name__ == "__main__":
    sys.exit(main())
