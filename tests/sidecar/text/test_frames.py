"""Videos of a request: read in the child, shown by frames whose times are named."""

from __future__ import annotations

import base64
import io
import sys
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from mlx_vlm.generate.video import sample_video_frames
from PIL import Image

from sidecar.text.files import frames
from sidecar.text.files.frames import chosen, clock
from sidecar.text.files.pages import ReadError, Wanted, is_video
from sidecar.text.files.reader import read  # as in the child, without one

RED, GREEN, BLUE = (220, 30, 30), (30, 200, 30), (30, 30, 220)


def film(folder: Path, *, count: int = 40, codec: str = "mp4v", ending: str = "mp4") -> bytes:
    """Return a video of ten frames a second whose colour goes from red to blue."""
    path = folder / f"film.{ending}"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 10, (160, 120))
    for i in range(count):
        share = i / (count - 1)
        colour = [round(b * share + a * (1 - share)) for a, b in zip(RED, BLUE, strict=True)]
        writer.write(np.full((120, 160, 3), colour[::-1], np.uint8))
    writer.release()
    return path.read_bytes()


def animation(kind: str) -> bytes:
    """Return three frames, shown for 0.5, 1 and 2 seconds."""
    first, *others = [Image.new("RGB", (64, 48), c) for c in (RED, GREEN, BLUE)]
    sink = io.BytesIO()
    first.save(sink, kind, save_all=True, append_images=others, duration=[500, 1000, 2000], loop=0)
    return sink.getvalue()


def colour(png: bytes | None) -> tuple[int, ...]:
    pixel = Image.open(io.BytesIO(png or b"")).convert("RGB").getpixel((20, 20))
    assert isinstance(pixel, tuple)
    return tuple(int(v) for v in pixel)


def close(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return all(abs(x - y) < 20 for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_animations_are_read_frame_by_frame(kind: str) -> None:
    found = read("a", "", animation(kind), Wanted(frames=8, side=32))
    assert [p.name for p in found.pages] == ["at 0:00.0", "at 0:00.5", "at 0:01.5"]
    assert all(close(colour(p.picture), c) for p, c in zip(found.pages, (RED, GREEN, BLUE), strict=True))
    assert Image.open(io.BytesIO(found.pages[0].picture or b"")).size == (32, 24)
    assert (found.total, found.seconds) == (3, 3.5)
    assert len(read("a", "", animation(kind), Wanted(frames=2)).pages) == 2


@pytest.mark.parametrize(("codec", "ending"), [("mp4v", "mp4"), ("VP80", "webm"), ("MJPG", "avi")])
def test_videos_are_read_where_opencv_is(tmp_path: Path, codec: str, ending: str) -> None:
    data = film(tmp_path, codec=codec, ending=ending)
    assert is_video("", data)
    found = read("a", "", data, Wanted(frames=6))
    assert len(found.pages) == 6
    assert found.seconds == pytest.approx(4, abs=0.2)
    assert found.pages[0].name == "at 0:00.0"
    assert found.pages[-1].name == "at 0:03.9"
    assert close(colour(found.pages[0].picture), RED)
    assert close(colour(found.pages[-1].picture), BLUE)


def test_what_is_no_video_says_so(tmp_path: Path) -> None:
    whole = film(tmp_path)
    for data in (b"no video", whole[:200], b"\x1aE\xdf\xa3" + bytes(100)):
        with pytest.raises(ReadError, match="complete"):
            read("a", "video/mp4", data, Wanted(frames=4))
    for head in (b"\x00\x00\x00\x18ftypheic", b"GIF89a", b"%PDF-1.7", b"RIFF\x00\x00\x00\x00WEBP"):
        assert not is_video("", head)


def test_without_opencv_animations_are_read_and_videos_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert len(frames.read(animation("GIF"), Wanted(frames=8)).pages) == 3
    for frozen, said in ((False, "needs opencv-python"), (True, "this build reads no videos: send an animated GIF")):
        monkeypatch.setattr(sys, "frozen", frozen, raising=False)
        with pytest.raises(ReadError, match=said):
            frames.read(film(tmp_path), Wanted(frames=4))


def test_frames_are_spread_over_the_whole() -> None:
    assert chosen(40, 4.0, Wanted(frames=16)) == [0, 6, 11, 17, 22, 28, 33, 39]
    assert chosen(40, 4.0, Wanted(frames=2)) == [0, 39]
    assert chosen(40, 4.0, Wanted(frames=1)) == [0]
    assert chosen(3, 0.1, Wanted(frames=16)) == [0, 1, 2]
    assert chosen(9000, 300.0, Wanted(frames=3)) == [0, 4500, 8999]
    assert [clock(s) for s in (0, 59.96, 62.5, 3725.04)] == ["0:00.0", "1:00.0", "1:02.5", "1:02:05.0"]


def url(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def answer(http: httpx.Client, parts: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    content = [*parts, {"type": "text", "text": "What happens?"}]
    body = {"model": "tiny-vl", "temperature": 0, "max_tokens": 12, "messages": [{"role": "user", "content": content}]}
    found = http.post("/v1/chat/completions", json=body | more)
    assert found.status_code == 200, found.text
    document: dict[str, Any] = found.json()
    return document


def test_a_video_is_the_frames_that_mlx_vlm_samples_under_their_times(http: httpx.Client, tmp_path: Path) -> None:
    data = film(tmp_path, count=30)
    sampled, rate = sample_video_frames([tmp_path / "film.mp4"])
    assert rate == 2.0
    spelled: list[dict[str, Any]] = []
    held = "[video: a video of 3.0 s, shown by 6 of its 30 frames, in their order, each after its time]\n"
    for frame, index in zip(sampled, [0, 6, 12, 17, 23, 29], strict=True):
        sink = io.BytesIO()
        frame.save(sink, "PNG")
        spelled.append({"type": "text", "text": f"{held}[video, at 0:0{index // 10}.{index % 10}]\n"})
        spelled.append({"type": "image_url", "image_url": {"url": url(sink.getvalue(), "image/png")}})
        held = ""
    logged = {"logprobs": True, "top_logprobs": 2}
    want = answer(http, spelled, **logged)
    part = {"type": "video_url", "video_url": {"url": url(data, "video/mp4")}}
    got = answer(http, [part], **logged)
    assert got["choices"][0]["message"] == want["choices"][0]["message"]
    assert got["choices"][0]["logprobs"] == want["choices"][0]["logprobs"]
    assert got["usage"]["prompt_tokens"] == want["usage"]["prompt_tokens"]
    file = {"type": "file", "file": {"filename": "video", "file_data": url(data, "")}}
    assert answer(http, [file], **logged)["choices"][0]["logprobs"] == want["choices"][0]["logprobs"]
    fewer = answer(http, [part | {"max_frames": 3}])
    assert fewer["usage"]["prompt_tokens"] < got["usage"]["prompt_tokens"]


@pytest.mark.parametrize(
    ("model", "part", "said"),
    [
        ("starter", {"url": "https://example.org/a.mp4"}, "URLs are off"),
        ("tiny-vl", {"url": "data:video/mp4;base64,AAAA"}, "no video that can be read"),
        ("tiny-vl", {"uri": "x"}, "video_url"),
    ],
    ids=["address", "damaged", "nothing"],
)
def test_what_is_no_video_is_refused_by_name(http: httpx.Client, model: str, part: dict[str, Any], said: str) -> None:
    content = [{"type": "video_url", "video_url": part}]
    found = http.post("/v1/chat/completions", json={"model": model, "messages": [{"role": "user", "content": content}]})
    assert found.status_code == 400
    assert said in found.json()["error"]["message"]
    assert not found.json()["error"]["message"].endswith(("?.", ".."))
    assert found.json()["error"]["param"].startswith("messages.0.content.0")
