"""Draw a red circle on white into the file that is named."""

from __future__ import annotations

import sys

from PIL import Image, ImageDraw


def main(path: str) -> int:
    """Write the picture, 256 by 256 pixels."""
    image = Image.new("RGB", (256, 256), "white")
    ImageDraw.Draw(image).ellipse((56, 56, 200, 200), fill="red")
    image.save(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
