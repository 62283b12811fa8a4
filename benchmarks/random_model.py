"""A model of Qwen3-VL-4B's shapes with random weights, 4 bit, for benchmarks where no real one can be fetched.

python -m benchmarks.random_model FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.support.models import QWEN3_VL_4B, qwen3_vl


def main(folder: str) -> int:
    """Write it."""
    sys.stdout.write(f"{qwen3_vl(Path(folder), **QWEN3_VL_4B)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
