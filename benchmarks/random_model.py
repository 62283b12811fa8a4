"""A Qwen3-VL with random weights, for benchmarks where no real one can be fetched.

    python -m benchmarks.random_model FOLDER
    python -m benchmarks.random_model FOLDER --size small

``4b``: Qwen3-VL-4B's shapes in 4 bit. ``small``: 8 layers of 256 values in float32, for a processor.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from tests.support.models import QWEN3_VL_4B, qwen3_vl

SIZES: dict[str, dict[str, Any]] = {
    "4b": QWEN3_VL_4B,
    "small": {"layers": 8, "hidden": 256, "vision_depth": 4, "max_pixels": 448 * 448},
}


def main() -> int:
    """Write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=sorted(SIZES), default="4b")
    args = parser.parse_args()
    sys.stdout.write(f"{qwen3_vl(args.folder, **SIZES[args.size])}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
