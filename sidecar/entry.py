"""Console script ``mlx-sidecar``: what the frozen program and ``python -m sidecar.entry`` run."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    multiprocessing.freeze_support()
    from sidecar.cli.main import run
    from sidecar.process import onefile

    onefile.prepare()
    return run(list(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    sys.exit(main())
