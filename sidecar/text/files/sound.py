"""Samples of a sound: WAV by hand, MP3, FLAC and Ogg Vorbis by miniaudio where it is installed. In the child alone.

A frozen program reads WAV alone unless it was built with audio.
"""

from __future__ import annotations

import sys
from typing import Any

from sidecar.text.files.pages import FileRead, ReadError

LONGEST = 1800.0
"""Seconds of a sound that are taken at most."""
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_HOW = "send WAV, MP3, FLAC or Ogg Vorbis"


def read(data: bytes) -> FileRead:
    """Return a sound's samples, its channels as one. Raises ReadError."""
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        samples, rate = _wav(data)
    else:
        samples, rate = _other(data)
    if not samples.size:
        raise ReadError("it holds no sound")
    seconds = samples.size / rate
    if seconds > LONGEST:
        raise ReadError(f"it is {seconds:.0f} s long and at most {LONGEST:.0f} s are taken; send it in pieces")
    return FileRead(pages=(), total=0, seconds=seconds, samples=samples.tobytes(), rate=rate)


def _wav(data: bytes) -> tuple[Any, int]:
    """Return the samples [N] of a WAV file and their rate [Hz]."""
    import numpy as np

    kind = channels = rate = bits = 0
    body = b""
    at = 12
    while at + 8 <= len(data):
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        inside = data[at + 8 : at + 8 + size]  # of a stream that was cut, what there is
        if name == b"fmt " and len(inside) >= 16:
            kind, channels = (int.from_bytes(inside[i : i + 2], "little") for i in (0, 2))
            rate, bits = int.from_bytes(inside[4:8], "little"), int.from_bytes(inside[14:16], "little")
            if kind == _EXTENSIBLE and len(inside) >= 26:
                kind = int.from_bytes(inside[24:26], "little")
        elif name == b"data":
            body = inside
            break
        at += 8 + size + size % 2
    if not (1 <= channels <= 32 and 1000 <= rate <= 400_000):
        raise ReadError("the WAV file is damaged (it doesn't say how it is sampled)")
    width = bits // 8
    body = body[: len(body) - len(body) % max(1, width * channels)]
    if kind == _FLOAT and width in (4, 8):
        samples: Any = np.frombuffer(body, f"<f{width}").astype(np.float32)
    elif kind == _PCM and width == 1:
        samples = (np.frombuffer(body, np.uint8).astype(np.float32) - 128) / 128
    elif kind == _PCM and width in (2, 4):
        samples = (np.frombuffer(body, f"<i{width}") / float(1 << (bits - 1))).astype(np.float32)
    elif kind == _PCM and width == 3:
        wide = np.zeros((len(body) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(body, np.uint8).reshape(-1, 3)
        samples = (wide.view("<i4")[:, 0] / float(1 << 31)).astype(np.float32)
    else:
        raise ReadError(f"WAV of this encoding ({kind}, {bits} bits) is not read; send it as PCM")
    return _mono(samples, channels), rate


def _other(data: bytes) -> tuple[Any, int]:
    import numpy as np

    try:
        import miniaudio  # type: ignore[import-untyped]
    except ImportError as exc:
        frozen = getattr(sys, "frozen", False)
        how = "this build reads sound as WAV alone; send it so" if frozen else "this needs miniaudio (pip install it)"
        raise ReadError(how) from exc
    about: Any
    try:
        if data[:4] == b"fLaC":
            about = miniaudio.flac_get_info(data)
        elif data[:4] == b"OggS":
            about = miniaudio.vorbis_get_info(data)
        elif data[:3] == b"ID3" or (data[:1] == b"\xff" and data[1:2] and data[1] & 0xE0 == 0xE0):
            about = miniaudio.mp3_get_info(data)
        else:
            raise ReadError(f"it is no sound that can be read; {_HOW}")
        decoded = miniaudio.decode(data, nchannels=about.nchannels, sample_rate=about.sample_rate)
    except miniaudio.MiniaudioError as exc:
        raise ReadError(f"the sound can't be decoded ({exc}); {_HOW}") from exc
    samples = np.array(decoded.samples, np.int16).astype(np.float32) / 32768
    return _mono(samples, decoded.nchannels), int(decoded.sample_rate)


def _mono(samples: Any, channels: int) -> Any:
    import numpy as np

    if channels == 1:
        return np.ascontiguousarray(samples, np.float32)
    return samples.reshape(-1, channels).mean(axis=1).astype(np.float32)
