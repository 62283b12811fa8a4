"""Write what the training saved as the weights the project ships: vision tower and connector, 8 bit.

    python -m training.starter_vision.export --eyes DIR --out sidecar/models/starter/vision

Matrices are kept as int8 with one float16 scale a row; everything else as float16. Names are mlx-vlm's.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file


def shipped(folder: Path) -> dict[str, np.ndarray]:
    """The tensors to ship, by name."""
    state: dict[str, torch.Tensor] = {}
    for part in sorted(folder.glob("eyes*.pt")):
        state.update(torch.load(part, map_location="cpu"))
    out: dict[str, np.ndarray] = {}
    for name, tensor in sorted(state.items()):
        if not name.startswith(("vision_model.", "connector.")):
            continue
        value = tensor.float().numpy()
        if name.endswith("patch_embedding.weight"):
            value = value.transpose(0, 2, 3, 1)
        if value.ndim < 2 or "embedding" in name:
            out[name] = np.ascontiguousarray(value.astype(np.float16))
            continue
        scale = np.maximum(np.abs(value).max(1), 1e-8) / 127
        scale = scale.astype(np.float16)
        out[name] = np.round(value / scale[:, None].astype(np.float32)).clip(-127, 127).astype(np.int8)
        out[f"{name}_scale"] = scale
    return out


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--eyes", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    save_file(shipped(args.eyes), args.out / "eyes.safetensors", metadata={"format": "mlx-sidecar-eyes-1"})


if __name__ == "__main__":
    main()
