"""Pictures drawn from a random generator: backgrounds, shapes, emoji, words, and what is where in them.

Everything is drawn at 256 × 256 pixels, the size the model sees. ``split`` "test" uses backgrounds, fonts and
rotation angles that "train" never does.
"""

from __future__ import annotations

import io
import itertools
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIDE = 256

COLOURS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "red": ((220, 25, 30), (200, 0, 0), (255, 40, 40)),
    "green": ((30, 160, 50), (0, 128, 0), (60, 200, 70)),
    "blue": ((30, 70, 220), (0, 0, 255), (60, 110, 240)),
    "yellow": ((250, 225, 30), (255, 255, 0), (245, 215, 60)),
    "orange": ((250, 140, 20), (255, 165, 0), (240, 120, 30)),
    "purple": ((130, 40, 170), (128, 0, 128), (150, 70, 210)),
    "pink": ((250, 150, 190), (255, 105, 180), (255, 192, 203)),
    "brown": ((120, 70, 30), (139, 69, 19), (100, 60, 35)),
    "black": ((15, 15, 15), (0, 0, 0), (30, 30, 32)),
    "white": ((250, 250, 250), (255, 255, 255), (240, 240, 242)),
    "gray": ((128, 128, 128), (150, 150, 152), (110, 112, 112)),
}
SHAPES = ("circle", "square", "triangle", "rectangle", "star", "heart", "diamond", "cross")
COLOUR_NAMES = tuple(COLOURS)


@dataclass(frozen=True)
class Thing:
    """One object: a shape with its colour, or an emoji (``emoji`` is its class). x, y, r: pixels."""

    x: float
    y: float
    r: float
    shape: int = -1
    colour: int = -1
    emoji: int = -1

    @property
    def label(self) -> int:
        """Class for the localising head: 0 nothing, then colour × shape, then emoji."""
        if self.emoji >= 0:
            return 1 + len(SHAPES) * len(COLOUR_NAMES) + self.emoji
        return 1 + self.shape * len(COLOUR_NAMES) + self.colour


@dataclass(frozen=True)
class Letters:
    """Where a word's letters are: (x, y, half width) of each, half their height, and the word's turn in degrees."""

    boxes: tuple[tuple[float, float, float], ...]
    half_height: float
    angle: float


@dataclass(frozen=True)
class Kit:
    """What is drawn with: emoji pictures, font files of the split, words."""

    sprites: tuple[Image.Image, ...]
    fonts: tuple[Path, ...]
    words: dict[str, list[str]]
    lexicon: dict[str, int]

    @classmethod
    def open(cls, folder: Path, split: str, *, known: str = "all") -> Kit:
        """The kit ``prepare`` wrote. ``known``: which common words are known whole; others are spelled."""
        import json

        with zipfile.ZipFile(folder / "sprites.zip") as archive:
            count = len(archive.namelist())
            sprites = tuple(Image.open(io.BytesIO(archive.read(f"{i}.png"))).convert("RGBA") for i in range(count))
        fonts = tuple(sorted((folder / "fonts" / split).glob("*.ttf")))
        words = json.loads((folder / "words.json").read_text("utf-8"))
        return cls(sprites, fonts, words, {w: i + 1 for i, w in enumerate(lexicon(words, known))})


def lexicon(words: dict[str, list[str]], known: str) -> list[str]:
    """The words known whole: "all" common ones, every other one ("half"), or "none"."""
    return {"all": words["common"], "half": words["common"][::2], "none": []}[known]


def jitter(rng: Random, colour: str) -> tuple[int, int, int]:
    """A shade of ``colour``."""
    spread = 3 if colour in ("gray", "white", "black") else 12
    r, g, b = (min(255, max(0, v + rng.randint(-spread, spread))) for v in rng.choice(COLOURS[colour]))
    return r, g, b


def background(rng: Random, split: str) -> tuple[Image.Image, str]:
    """A background and the name of its colour, "" when it has no single one."""
    names = list(COLOURS)
    one = rng.choice(names)
    a = jitter(rng, one)
    b = tuple(rng.randint(0, 255) for _ in range(3))
    if rng.random() < 0.5:  # most pictures have quiet grounds
        a = tuple(rng.randint(200, 255) for _ in range(3))
        one = ""
    if rng.random() < 0.25:
        a, one = (255, 255, 255), "white"
    kind = rng.choice(("checker", "radial", "dots") if split == "test" else ("plain",) * 4 + _TEXTURES + ("marks",) * 6)
    if kind == "plain":
        return Image.new("RGB", (SIDE, SIDE), a), one
    mix = tuple(int(x + (y - x) * rng.uniform(0.1, 0.45)) for x, y in zip(a, b, strict=True))
    return _texture(rng, kind, a, mix), ""


_TEXTURES = ("linear", "noise", "stripes", "blobs", "halves", "grid", "waves", "mosaic")


def _texture(rng: Random, kind: str, a: tuple[int, ...], b: tuple[int, ...]) -> Image.Image:
    ys, xs = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) / SIDE
    angle = rng.uniform(0, 2 * math.pi)
    along = (xs - 0.5) * math.cos(angle) + (ys - 0.5) * math.sin(angle)
    seed = np.random.default_rng(rng.getrandbits(32))
    if kind == "linear":
        t = along + 0.5
    elif kind == "noise":
        t = seed.random((SIDE, SIDE), dtype=np.float32)
    elif kind == "stripes":
        t = (np.floor(along * rng.randint(6, 24)) % 2).astype(np.float32)
    elif kind == "halves":
        t = (along > rng.uniform(-0.2, 0.2)).astype(np.float32)
    elif kind == "grid":
        n = rng.randint(6, 16)
        t = ((xs * n % 1 < 0.1) | (ys * n % 1 < 0.1)).astype(np.float32)
    elif kind == "checker":
        n = rng.randint(4, 12)
        t = ((np.floor(xs * n) + np.floor(ys * n)) % 2).astype(np.float32)
    elif kind == "radial":
        t = np.hypot(xs - rng.random(), ys - rng.random())
    elif kind == "dots":
        n = rng.randint(6, 14)
        t = (np.hypot(xs * n % 1 - 0.5, ys * n % 1 - 0.5) < 0.22).astype(np.float32)
    elif kind == "marks":
        t = _marks(rng, xs, ys)
    elif kind == "waves":
        across = (xs - 0.5) * math.sin(angle) - (ys - 0.5) * math.cos(angle)
        t = 0.5 + 0.5 * np.sin((along + 0.06 * np.sin(across * rng.uniform(8, 30))) * rng.uniform(20, 120))
    else:
        n = rng.randint(5, 20) if kind == "mosaic" else 6
        small = Image.fromarray(seed.integers(0, 256, (n, n), dtype=np.uint8))
        way = Image.Resampling.NEAREST if kind == "mosaic" else Image.Resampling.BICUBIC
        t = np.asarray(small.resize((SIDE, SIDE), way), dtype=np.float32) / 255
    t = np.clip(t, 0, 1)[..., None]
    pixels = np.array(a, np.float32) * (1 - t) + np.array(b, np.float32) * t
    return Image.fromarray(pixels.astype(np.uint8))


def _marks(rng: Random, xs: np.ndarray, ys: np.ndarray) -> np.ndarray:
    """Small marks in rows, not to be taken for things: 1 where there is one."""
    n, size, thick = rng.randint(6, 16), rng.uniform(0.18, 0.36), rng.uniform(0.06, 0.12)
    row = np.floor(ys * n)
    u = (xs * n + rng.random() + (row % 2) * rng.choice((0.0, 0.5))) % 1 - 0.5
    v = ys * n % 1 - 0.5
    kind = rng.choice(("ring", "plus", "triangle", "bar", "box", "diamond", "slash"))
    if kind == "ring":
        on = np.abs(np.hypot(u, v) - size) < thick
    elif kind == "plus":
        on = (np.minimum(np.abs(u), np.abs(v)) < thick) & (np.maximum(np.abs(u), np.abs(v)) < size)
    elif kind == "triangle":
        on = (v < size * 0.8) & (v > 2 * np.abs(u) - size)
    elif kind == "bar":
        on = (np.abs(u) < size) & (np.abs(v) < thick)
    elif kind == "box":
        on = np.maximum(np.abs(u), np.abs(v)) < size * 0.75
    elif kind == "diamond":
        on = np.abs(u) + np.abs(v) < size
    else:
        on = (np.abs(u - v) < thick * 1.4) & (np.abs(u) < size)
    return on.astype(np.float32)


def turn(rng: Random, split: str, limit: float) -> float:
    """A rotation in degrees; "test" turns by angles between those of "train"."""
    low, high = 0.4 * limit, 0.6 * limit
    while True:
        angle = rng.uniform(-limit, limit)
        if (low <= abs(angle) <= high) == (split == "test"):
            return angle


def stands_out(ground: Image.Image, x: float, y: float, r: float, rgb: tuple[int, int, int]) -> bool:
    """Whether a colour can be told from the ground around a place."""
    box = [int(min(SIDE - 1, max(0, v))) for v in (x - r, y - r, x + r, y + r)]
    patch = np.asarray(ground.crop((box[0], box[1], box[2] + 1, box[3] + 1)).resize((4, 4)), np.float32)
    near = np.abs(patch.reshape(-1, 3) - np.array(rgb, np.float32)).sum(1)
    return bool(near.min() > 110)


def outline(shape: str, rng: Random, angle: float) -> list[tuple[float, float]]:
    """Corners of a shape in a unit circle, turned by ``angle`` degrees; y points down."""
    if shape == "square":
        points = [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)]
    elif shape == "rectangle":
        h = rng.uniform(0.35, 0.5)
        points = [(-0.95, -h), (0.95, -h), (0.95, h), (-0.95, h)]
        if rng.random() < 0.4:
            points = [(y, x) for x, y in points]
    elif shape == "triangle":
        points = [(0, -0.95), (0.9, 0.75), (-0.9, 0.75)]
    elif shape == "diamond":
        points = [(0, -1), (rng.uniform(0.55, 0.75), 0), (0, 1)]
        points.append((-points[1][0], 0))
    elif shape == "cross":
        w = rng.uniform(0.25, 0.36)
        points = [(-w, -1), (w, -1), (w, -w), (1, -w), (1, w), (w, w), (w, 1), (-w, 1), (-w, w), (-1, w)]
        points += [(-1, -w), (-w, -w)]
    elif shape == "star":
        inner = rng.uniform(0.38, 0.5)
        points = [
            (math.sin(i * math.pi / 5) * (inner if i % 2 else 1), -math.cos(i * math.pi / 5) * (inner if i % 2 else 1))
            for i in range(10)
        ]
    elif shape == "heart":
        ts = [i * 2 * math.pi / 36 for i in range(36)]
        points = [
            (
                0.92 * math.sin(t) ** 3,
                -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 17,
            )
            for t in ts
        ]
    else:
        points = [(math.cos(i * math.pi / 20), math.sin(i * math.pi / 20)) for i in range(40)]
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    return [(x * c - y * s, x * s + y * c) for x, y in points]


def draw_shape(canvas: Image.Image, thing: Thing, rng: Random, split: str, rgb: tuple[int, int, int]) -> None:
    """Draw a shape, its edges smoothed; sometimes with an outline."""
    name = SHAPES[thing.shape]
    angle = turn(rng, split, 180 if name in ("circle", "star") else 14)
    side = max(4, round(thing.r * 2.1))
    mask = Image.new("L", (side * 3, side * 3), 0)
    half = side * 1.5
    points = [(half + x * thing.r * 3, half + y * thing.r * 3) for x, y in outline(name, rng, angle)]
    ImageDraw.Draw(mask).polygon(points, fill=255)
    small = mask.resize((side, side), Image.Resampling.BOX)
    at = (round(thing.x - side / 2), round(thing.y - side / 2))
    if rng.random() < 0.2:
        edge = mask.resize((side + 6, side + 6), Image.Resampling.BOX)
        canvas.paste((10, 10, 10) if sum(rgb) > 200 else (240, 240, 240), (at[0] - 3, at[1] - 3), edge)
    canvas.paste(rgb, at, small)


def draw_emoji(canvas: Image.Image, thing: Thing, rng: Random, split: str, kit: Kit) -> None:
    """Draw an emoji turned, sized, now and then mirrored or faded."""
    sprite = kit.sprites[thing.emoji]
    angle = turn(rng, split, 25)
    scale = 2 * thing.r / max(sprite.size)
    stretch = rng.uniform(0.88, 1.12)
    size = (max(8, round(sprite.width * scale * stretch)), max(8, round(sprite.height * scale)))
    image = sprite.resize(size, Image.Resampling.BILINEAR)
    if rng.random() < 0.3:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    image = image.rotate(angle, Image.Resampling.BILINEAR, expand=True)
    canvas.paste(image, (round(thing.x - image.width / 2), round(thing.y - image.height / 2)), image)


_FONTS: dict[tuple[str, int], ImageFont.FreeTypeFont] = {}


def draw_word(canvas: Image.Image, word: str, rng: Random, split: str, kit: Kit) -> Letters | None:
    """Write ``word`` somewhere, readable; where its letters are, or None when there is no room."""
    path = rng.choice(kit.fonts)
    size = rng.choice((28, 32, 36, 40, 46, 52, 60, 70, 80))
    while True:
        face = _FONTS.setdefault((str(path), size), ImageFont.truetype(str(path), size))
        box = face.getbbox(word)
        width, height = box[2] - box[0], box[3] - box[1]
        if width <= SIDE - 24 or size <= 20:
            break
        size -= 6
    layer = Image.new("L", (int(width) + 8, int(height) + 8), 0)
    ImageDraw.Draw(layer).text((4 - box[0], 4 - box[1]), word, font=face, fill=255)
    angle = turn(rng, split, 10) if rng.random() < 0.5 else 0.0
    layer = layer.rotate(angle, Image.Resampling.BILINEAR, expand=True)
    free_x, free_y = SIDE - layer.width, SIDE - layer.height
    if free_x < 2 or free_y < 2:
        return None
    x, y = rng.randint(1, free_x - 1), rng.randint(1, free_y - 1)
    ends = [face.getlength(word[:i]) for i in range(len(word) + 1)]
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    boxes = []
    for left, right in itertools.pairwise(ends):
        off = (left + right) / 2 - box[0] - width / 2
        boxes.append((x + layer.width / 2 + off * cos, y + layer.height / 2 - off * sin, (right - left) / 2))
    letters = Letters(tuple(boxes), height / 2, angle)
    for _ in range(8):
        rgb = jitter(rng, rng.choice(COLOUR_NAMES)) if rng.random() < 0.6 else (0, 0, 0)
        if stands_out(canvas, x + layer.width / 2, y + layer.height / 2, layer.width / 2, rgb):
            canvas.paste(rgb, (x, y), layer)
            return letters
    pale = (250, 250, 250)
    canvas.paste(pale, (x - 2, y - 2, x + layer.width + 2, y + layer.height + 2))
    canvas.paste((10, 10, 10), (x, y), layer)
    return letters


def scatter(rng: Random, radii: list[float]) -> list[tuple[float, float]] | None:
    """Places for circles of ``radii`` that don't touch, or None."""
    placed: list[tuple[float, float]] = []
    for i, r in enumerate(radii):
        for _ in range(40):
            x, y = rng.uniform(r + 2, SIDE - r - 2), rng.uniform(r + 2, SIDE - r - 2)
            if all(math.hypot(x - a, y - b) > r + radii[j] + 3 for j, (a, b) in enumerate(placed)):
                placed.append((x, y))
                break
        else:
            return None
        assert len(placed) == i + 1
    return placed
