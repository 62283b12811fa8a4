"""Bring together what training needs: sprites, fonts, words, tokenizer and the packed language model.

    python -m training.starter_vision.prepare --fonts DIR --words FILE --text-dir DIR --gguf FILE --out DIR

``--fonts`` is a folder with Debian's font packages unpacked (fonts-noto-color-emoji, fonts-dejavu-core,
fonts-dejavu-extra, fonts-freefont-ttf, fonts-lato, fonts-liberation2, fonts-open-sans, fonts-roboto-unhinted,
fonts-noto-core); ``--words`` the word list of Debian's wamerican.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import shutil
import tempfile
import zipfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from training.starter_vision import emoji

TRAIN_FONTS = [
    "DejaVuSans.ttf",
    "DejaVuSans-Bold.ttf",
    "DejaVuSansMono.ttf",
    "DejaVuSerif.ttf",
    "DejaVuSerif-Bold.ttf",
    "DejaVuSansCondensed.ttf",
    "FreeSans.ttf",
    "FreeSansBold.ttf",
    "FreeSerif.ttf",
    "FreeSerifBold.ttf",
    "FreeMonoBold.ttf",
    "LiberationSans-Regular.ttf",
    "LiberationSans-Bold.ttf",
    "LiberationSans-Italic.ttf",
    "LiberationMono-Regular.ttf",
    "OpenSans-Regular.ttf",
    "OpenSans-Bold.ttf",
    "OpenSans-CondBold.ttf",
    "Roboto-Regular.ttf",
    "Roboto-Medium.ttf",
    "RobotoCondensed-Bold.ttf",
    "NotoSans-Regular.ttf",
    "NotoSans-Bold.ttf",
    "NotoSans-Italic.ttf",
    "NotoSerif-Regular.ttf",
    "NotoSerif-Italic.ttf",
]
TEST_FONTS = [
    "Lato-Regular.ttf",
    "Lato-Bold.ttf",
    "LiberationSerif-Regular.ttf",
    "LiberationSerif-Bold.ttf",
    "DejaVuSansMono-Bold.ttf",
    "Roboto-Bold.ttf",
    "NotoSerif-Bold.ttf",
]
_FAMILIAR = 14000  # a word's token number up to which it counts as common


def sprites(font: Path, out: Path) -> None:
    """Every emoji as a PNG of at most 128 × 136 pixels with alpha, in one zip."""
    face = ImageFont.truetype(str(font), 109)
    with zipfile.ZipFile(out, "w") as archive:
        for index, character in enumerate(emoji.CHARACTERS):
            image = Image.new("RGBA", (160, 160), (0, 0, 0, 0))
            ImageDraw.Draw(image).text((10, 16), character, font=face, embedded_color=True)
            box = image.getbbox()
            if box is None:
                raise SystemExit(f"{font.name} has no picture for {character}")
            data = io.BytesIO()
            image.crop(box).save(data, "PNG")
            archive.writestr(f"{index}.png", data.getvalue())


def words(listing: Path, tokenizer: Path, out: Path) -> None:
    """Words to render: common ones (one token each), and any of up to six letters."""
    english = {w for w in listing.read_text("utf-8").split() if re.fullmatch("[a-z]{2,6}", w)}
    vocab: dict[str, int] = json.loads(tokenizer.read_text("utf-8"))["model"]["vocab"]
    common = [t[1:] for t, i in sorted(vocab.items(), key=lambda p: p[1]) if t[0] == "Ġ" and i < _FAMILIAR]
    common = [w for w in common if w in english and (len(w) > 2 or w in ("go", "no", "up", "hi", "ok"))]
    rare = sorted(english - set(common))
    unseen = rare[::17]
    out.write_text(json.dumps({"common": common, "rare": sorted(set(rare) - set(unseen)), "unseen": unseen}), "utf-8")


def pack(gguf: Path, out: Path, *, first_layers: int) -> None:
    """The language model, still 4 and 8 bit, in two files small enough to carry."""
    import mlx.core as mx

    from sidecar.models import gguf as reader

    with tempfile.TemporaryDirectory() as work:
        reader.convert(gguf, Path(work), quantized=True, progress=lambda *_: None)
        weights: dict[str, mx.array] = mx.load(str(Path(work) / "model.safetensors"))
        parts: tuple[dict[str, mx.array], dict[str, mx.array]] = ({}, {})
        for name, tensor in weights.items():
            layer = int(name.split(".")[2]) if ".layers." in name else -1
            parts[layer >= first_layers][name] = tensor
        for index, part in enumerate(parts):
            mx.save_safetensors(str(out / f"lm{index}.safetensors"), part)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--fonts", type=Path, required=True)
    parser.add_argument("--words", type=Path, required=True)
    parser.add_argument("--text-dir", type=Path, required=True, help="the converted text model")
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--first-layers", type=int, default=9, help="layers in the first of the two files")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    found = {p.name: p for p in args.fonts.rglob("*.ttf")}
    sprites(found["NotoColorEmoji.ttf"], args.out / "sprites.zip")
    for split, names in (("train", TRAIN_FONTS), ("test", TEST_FONTS)):
        folder = args.out / "fonts" / split
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            shutil.copyfile(found[name], folder / name)
    shutil.copyfile(args.text_dir / "tokenizer.json", args.out / "tokenizer.json")
    words(args.words, args.out / "tokenizer.json", args.out / "words.json")
    pack(args.gguf, args.out, first_layers=args.first_layers)


if __name__ == "__main__":
    main()
