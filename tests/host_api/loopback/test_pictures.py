"""Pictures are opened as a viewer shows them, in bounded memory. Every file is made in the test."""

from __future__ import annotations

import base64
import io
import struct
import subprocess
import sys
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageDraw, ImageOps

from host_api.loopback import pictures
from host_api.loopback.pictures import PictureError

BIG = 50_000_000


def saved(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    sink = io.BytesIO()
    image.save(sink, form, **options)
    return sink.getvalue()


def seen(data: bytes, side: int = 512) -> Image.Image:
    image: Image.Image = pictures.first(data, side=side, pixels=BIG, formats=pictures.EVERY)
    assert image.mode == "RGB"
    return image


def near(a: Any, b: Any, by: int = 6) -> bool:
    return all(abs(x - y) <= by for x, y in zip(a, b, strict=True))


def marked() -> Image.Image:
    """White, with red at the left and a blue corner at the top right: every turn of it looks different."""
    image = Image.new("RGB", (120, 60), "white")
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, 30, 60), fill="red")
    draw.rectangle((100, 0, 120, 20), fill="blue")
    return image


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_a_photograph_is_turned_as_its_tag_says(orientation: int, form: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"quality": 100, "subsampling": 0} if form == "JPEG" else {"quality": 100}
    options = options if form in ("JPEG", "WEBP", "AVIF") else {}
    shown = seen(saved(marked(), form, exif=exif, **options))
    tagged = marked()
    tagged.getexif()[0x0112] = orientation
    right = ImageOps.exif_transpose(tagged)
    assert shown.size == right.size
    for x, y in ((8, 30), (112, 8), (60, 50)):
        at = (x, y) if shown.width == 120 else (y, x)
        assert near(shown.getpixel(at), right.getpixel(at), 40), (form, orientation, at)


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF", "AVIF"])
def test_transparency_lies_over_white(form: str) -> None:
    image = Image.new("RGBA", (200, 100), (0, 0, 0, 0))
    ImageDraw.Draw(image).rectangle((60, 30, 140, 70), fill=(0, 0, 0, 255))
    shown = seen(saved(image, form))
    assert near(shown.getpixel((5, 5)), (255, 255, 255))
    assert near(shown.getpixel((100, 50)), (0, 0, 0))


def test_premultiplied_grey_lies_over_white() -> None:
    data = saved(Image.new("LA", (40, 30), (0, 128)), "TIFF")
    extra = struct.Struct("<HHIH")  # the tag ExtraSamples: 2, the pixels are as they are; 1, alpha is in them
    assert data.count(extra.pack(338, 3, 1, 2)) == 1
    premultiplied = data.replace(extra.pack(338, 3, 1, 2), extra.pack(338, 3, 1, 1))
    assert Image.open(io.BytesIO(premultiplied)).mode == "La"
    assert near(seen(premultiplied).getpixel((20, 15)), (127, 127, 127), 2)


def test_other_kinds_of_transparency_lie_over_white_too() -> None:
    palette = Image.new("P", (80, 80), 1)
    palette.putpalette([255, 0, 0, 0, 0, 0])
    grey = Image.new("LA", (80, 80), (0, 0))
    for data in (
        saved(palette, transparency=1),
        saved(palette, "GIF", transparency=1),
        saved(grey),
        saved(Image.new("L", (80, 80), 0), transparency=0),
        saved(Image.new("RGB", (80, 80), (1, 2, 3)), transparency=(1, 2, 3)),
    ):
        assert seen(data).getpixel((40, 40)) == (255, 255, 255)
    half = seen(saved(Image.new("RGBA", (4000, 4000), (0, 0, 0, 128))))
    assert near(half.getpixel((9, 9)), (127, 127, 127), 2)


@pytest.mark.parametrize(
    ("image", "form", "right"),
    [
        (Image.new("I;16", (64, 64), 20000), "PNG", 78),
        (Image.new("I;16", (64, 64), 20000), "TIFF", 78),
        (Image.new("I;16B", (64, 64), 20000), "TIFF", 78),
        (Image.new("I", (64, 64), 20000), "TIFF", 78),
        (Image.new("I", (64, 64), 77), "TIFF", 77),
        (Image.new("F", (64, 64), 0.5), "TIFF", 127),
        (Image.new("F", (64, 64), 128.0), "TIFF", 128),
        (Image.new("1", (64, 64), 1), "PNG", 255),
        (Image.new("P", (64, 64), 9), "PNG", None),
    ],
)
@pytest.mark.parametrize("side", [512, 8])
def test_deep_pixels_keep_their_brightness(image: Image.Image, form: str, right: int | None, side: int) -> None:
    value = seen(saved(image, form), side).getpixel((5, 5))
    assert right is None or near(value, (right,) * 3, 1), value


def test_a_float_picture_of_any_range_is_stretched() -> None:
    image = Image.new("F", (64, 64), -1000.0)
    image.paste(3000.0, (32, 0, 64, 64))
    shown = seen(saved(image, "TIFF"))
    assert (shown.getpixel((5, 5)), shown.getpixel((60, 60))) == ((0, 0, 0), (255, 255, 255))


def test_cmyk_lab_and_wide_gamut_become_srgb() -> None:
    assert near(
        seen(saved(Image.new("CMYK", (64, 64), (0, 255, 255, 0)), "JPEG", quality=100)).getpixel((9, 9)), (255, 0, 0)
    )
    assert near(seen(saved(Image.new("CMYK", (64, 64), (255, 0, 255, 0)), "TIFF")).getpixel((9, 9)), (0, 255, 0))
    assert near(
        seen(saved(Image.new("YCbCr", (64, 64), (76, 85, 255)), "JPEG", quality=100)).getpixel((9, 9)), (254, 0, 0)
    )
    red = ImageCms.profileToProfile(
        Image.new("RGB", (64, 64), "red"),
        ImageCms.createProfile("sRGB"),
        ImageCms.createProfile("LAB"),
        outputMode="LAB",
    )
    assert red is not None
    assert near(seen(saved(red, "TIFF")).getpixel((9, 9)), (255, 0, 0), 10)
    swapped = swapped_primaries()
    assert near(seen(saved(Image.new("RGB", (64, 64), "red"), icc_profile=swapped)).getpixel((9, 9)), (0, 255, 0), 12)
    assert seen(saved(Image.new("RGB", (64, 64), "red"), icc_profile=b"no profile")).getpixel((9, 9)) == (255, 0, 0)


def swapped_primaries() -> bytes:
    """An sRGB profile with the red and green primaries exchanged, so that taking no notice of it is seen."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = profile.index(b"rXYZ"), profile.index(b"gXYZ")  # entries of the tag table
    profile[red : red + 4], profile[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(profile)


def test_a_tiff_shows_every_page_and_an_animation_its_first_frame() -> None:
    frames = [Image.new("RGB", (90, 60), c) for c in ("red", "lime", "blue")]
    many = {"save_all": True, "append_images": frames[1:]}

    def colours(data: bytes, most: int = 9) -> list[Any]:
        found = pictures.frames(data, side=64, pixels=BIG, most=most)
        return [f.getpixel((9, 9)) for f in found]

    assert colours(saved(frames[0], "TIFF", **many)) == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    assert colours(saved(frames[0], "TIFF", **many), most=2) == [(255, 0, 0), (0, 255, 0)]
    for form in ("GIF", "WEBP", "PNG", "AVIF"):
        (only,) = colours(saved(frames[0], form, **many))
        assert near(only, (255, 0, 0), 8), form


# Red left, blue right, 64 × 32; and the same turned by a quarter. By libheif's encoder, which pi-heif doesn't have.
HEIC = (
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAX1tZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAACJpbG9j"
    "AAAAAERAAAEAAQAAAAABoQABAAAAAAAAAIcAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABodmMxAAAAAA5waXRtAAAAAAABAAAA/Wlw"
    "cnAAAADdaXBjbwAAAHZodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQAqQgEBA3AA"
    "AAMAkAAAAwAAAwAeoCCBBZbq5Ka5uAhoMCAAAAMDIAAAAwAhYgABAAZEAcFzwIkAAAATY29scm5jbHgAAQANAAaAAAAAFGlzcGUAAAAAAAAA"
    "QAAAAEAAAAAoY2xhcAAAAEAAAAABAAAAIAAAAAEAAAAAAAAAAv///+AAAAACAAAAEHBpeGkAAAAAAwgICAAAABhpcG1hAAAAAAAAAAEAAQWB"
    "AgMFhAAAAI9tZGF0AAAAgygBrwngPfMi///yPzf//LDOy/vFxFe//8dbw7/Ulg//5BV6YSgwK4fJZOV/OjuvTe0nzRSLF6VXROUsfyV5YE0d"
    "z5ScPKu0k7mrR5Zm03rO8lbypFTqxOw5etvY1hyVJ2YWxFMxWkiECHU6E8t7/aXrC6g/pw39+aqK+UFz2Mj7hoeO"
)
HEIC_TURNED = (
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAchtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAADRpbG9j"
    "AAAAAERAAAIAAQAAAAAB7AABAAAAAAAAAIcAAgAAAAACcwABAAAAAAAAACQAAAA4aWluZgAAAAAAAgAAABVpbmZlAgAAAAABAABodmMxAAAA"
    "ABVpbmZlAgAAAQACAABFeGlmAAAAAA5waXRtAAAAAAABAAABB2lwcnAAAADmaXBjbwAAAHZodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNg"
    "AAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQAqQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbq5Ka5uAhoMCAAAAMDIAAAAwAhYgABAAZE"
    "AcFzwIkAAAATY29scm5jbHgAAQANAAaAAAAAFGlzcGUAAAAAAAAAQAAAAEAAAAAoY2xhcAAAAEAAAAABAAAAIAAAAAEAAAAAAAAAAv///+AA"
    "AAACAAAAEHBpeGkAAAAAAwgICAAAAAlpcm90AwAAABlpcG1hAAAAAAAAAAEAAQaBAgMFhIYAAAAaaXJlZgAAAAAAAAAOY2RzYwACAAEAAQAA"
    "ALNtZGF0AAAAgygBrwngPfMi///yPzf//LDOy/vFxFe//8dbw7/Ulg//5BV6YSgwK4fJZOV/OjuvTe0nzRSLF6VXROUsfyV5YE0dz5ScPKu0"
    "k7mrR5Zm03rO8lbypFTqxOw5etvY1hyVJ2YWxFMxWkiECHU6E8t7/aXrC6g/pw39+aqK+UFz2Mj7hoeOAAAABkV4aWYAAE1NACoAAAAIAAEB"
    "EgADAAAAAQAGAAAAAAAA"
)


@pytest.mark.parametrize(("data", "size"), [(HEIC, (64, 32)), (HEIC_TURNED, (32, 64))], ids=["upright", "turned"])
def test_a_phones_heic_is_read_and_turned_once(data: str, size: tuple[int, int]) -> None:
    shown = pictures.first(base64.b64decode(data), side=512, pixels=1 << 20, formats=pictures.EVERY)
    assert (shown.mode, shown.size) == ("RGB", size)
    for at, colour in (((5, 5), (255, 0, 0)), ((size[0] - 6, size[1] - 6), (0, 0, 255))):
        found = shown.getpixel(at)
        assert isinstance(found, tuple)
        assert near(found, colour, 8), found
    with pytest.raises(PictureError) as cut:
        pictures.first(base64.b64decode(data)[:300], side=512, pixels=1 << 20, formats=pictures.EVERY)
    assert str(cut.value)


def test_a_long_thin_picture_keeps_its_shape() -> None:
    assert seen(saved(Image.new("RGB", (30000, 20), "red"))).size == (512, 1)
    assert seen(saved(Image.new("RGB", (5000, 2500), "red"))).size == (512, 256)
    assert seen(saved(Image.new("RGB", (100, 50), "red"))).size == (100, 50)


def test_what_cannot_be_opened_says_why() -> None:
    whole = saved(Image.new("RGB", (300, 300), "red"))
    for data, code in ((b"", "unknown"), (b"not a picture", "unknown"), (whole[:150], "damaged")):
        with pytest.raises(PictureError) as caught:
            seen(data)
        assert caught.value.code == code, caught.value
    with pytest.raises(PictureError) as caught:
        pictures.first(whole, side=10, pixels=80_000)
    assert caught.value.code == "too_large"
    assert "300 × 300" in str(caught.value)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["PNG", "GIF", "BMP", "TIFF", "WEBP", "JPEG"]), st.data())
def test_damaged_files_raise_one_kind_of_error(noise: bytes, form: str, data: st.DataObject) -> None:
    whole = bytearray(saved(marked(), form))
    at = data.draw(st.integers(0, len(whole)))
    whole[at : at + len(noise)] = noise
    with_error: PictureError | None = None
    try:
        assert seen(bytes(whole)).mode == "RGB"
    except PictureError as exc:
        with_error = exc
    assert with_error is None or str(with_error)


def bomb(side: int) -> bytes:
    """A PNG with alpha of side × side pixels, all the same."""
    row = b"\0" + bytes((10, 20, 30, 200)) * side
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", side, side, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def test_fifty_megapixels_take_little_more_than_their_pixels() -> None:
    data = bomb(7000)
    assert len(data) < 300_000
    program = (
        "import resource, sys\nfrom host_api.loopback import pictures\n"
        "data = sys.stdin.buffer.read()\n"
        "from PIL import Image; Image.init()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "image = pictures.first(data, side=1344, pixels=50_000_000)\n"
        "print(image.size, image.getpixel((5, 5)), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], input=data, capture_output=True, check=True, timeout=120)
    size, pixel, grown = done.stdout.decode().replace("(", "").replace(")", "\t").split("\t")
    assert size == "1344, 1344"
    assert near([int(v) for v in pixel.split(",")], (63, 71, 78), 2)
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(grown) * unit < 300_000_000  # 196 MB are the decoder's own buffer; it was 937 MB


@pytest.mark.skipif(sys.platform != "linux", reason="what is resident now is read from /proc")
def test_two_threads_hold_one_picture_at_a_time_and_keep_none() -> None:
    """As the engine decodes: each had the picture twice, once outside the turn, and its thread kept 300 MB."""
    program = (
        "import sys, threading\nfrom pathlib import Path\nfrom sidecar.config import Settings\n"
        "from sidecar.engine.asked import PictureData\nfrom sidecar.text import images\n"
        "from PIL import Image; Image.init()\n"
        "def field(name):\n"
        "    lines = Path('/proc/self/status').read_text().splitlines()\n"
        "    return next(int(line.split()[1]) for line in lines if line.startswith(name))\n"
        "given = PictureData(data=sys.stdin.buffer.read(), param='x')\n"
        "def decode():\n    assert images.decode(given, Settings()).sent == (7000, 7000)\n"
        "before = field('VmRSS')\n"
        "threads = [threading.Thread(target=decode) for _ in range(2)]\n"
        "for t in threads: t.start()\n"
        "for t in threads: t.join()\n"
        "print(field('VmHWM') - before, field('VmRSS') - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input=bomb(7000), capture_output=True, check=True, timeout=120
    )
    most, kept = (int(v) * 1024 for v in done.stdout.split())
    assert most < 400_000_000, "196 MB are the decoder's own buffer"
    assert kept < 120_000_000
