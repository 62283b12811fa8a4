"""Print what MLX tells of the device's memory and what the engine makes of it."""

from __future__ import annotations

import json
import sys
from typing import Any

import mlx.core as mx

from sidecar.engine import memory


def main() -> int:
    """Print one JSON object, sizes in bytes."""
    device: dict[str, Any] = dict(mx.device_info())
    print(
        json.dumps({"device": str(mx.default_device()), "info": device, "total": memory.total()}, indent=1, default=str)
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
