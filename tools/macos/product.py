"""Multiply two matrices on MLX's default device and compare with numpy: a GPU that gives zeros is found at once."""

from __future__ import annotations

import sys

import mlx.core as mx
import numpy as np


def main() -> int:
    """Print the device and ``equal``, or how far off the product is."""
    rng = np.random.default_rng(3)
    a, b = (rng.standard_normal((256, 256), dtype=np.float32) for _ in range(2))
    far = float(np.abs(np.array(mx.array(a) @ mx.array(b)) - a @ b).max())
    print(mx.default_device())
    print("equal" if far < 0.01 else f"off by {far}")
    return 0 if far < 0.01 else 1


if __name__ == "__main__":
    sys.exit(main())
