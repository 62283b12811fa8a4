"""Write the held-out pictures with their questions into one zip, so that scoring needs no fonts.

python -m training.starter_vision.heldout --kit DIR --each 50 --out tools/starter_vision/heldout.zip
"""

from __future__ import annotations

import argparse
import io
import json
import zipfile
from pathlib import Path
from random import Random

from training.starter_vision import samples
from training.starter_vision.scenes import Kit


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--kit", type=Path, required=True)
    parser.add_argument("--each", type=int, default=50)
    parser.add_argument("--seed", type=int, default=20261124)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    kit, rng, listing = Kit.open(args.kit, "test"), Random(args.seed), []
    with zipfile.ZipFile(args.out, "w", zipfile.ZIP_STORED) as archive:
        for kind in samples.KINDS:
            for i in range(args.each):
                sample = samples.make(rng, "test", kit, kind)
                data = io.BytesIO()
                sample.image.save(data, "WEBP", lossless=True, quality=100, method=6)
                name = f"{kind}-{i:03}.webp"
                archive.writestr(zipfile.ZipInfo(name), data.getvalue())
                listing.append(
                    {
                        "file": name,
                        "kind": kind,
                        "question": sample.question,
                        "answer": sample.answer,
                        "wanted": sample.wanted,
                    }
                )
        archive.writestr(zipfile.ZipInfo("questions.json"), json.dumps(listing, indent=0))


if __name__ == "__main__":
    main()
