"""Sounds of a request: from decoded samples to what a model's processor takes.

Resampling is done here and not by mlx-vlm, whose way needs SciPy, which the frozen program leaves out: the same filter
(a windowed sinc of 64 zero crossings, Kaiser's window), the same samples to the last digits of a float.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sidecar.engine.asked import SoundData
from sidecar.errors import bad_request

if TYPE_CHECKING:
    from sidecar.backend.loader import LoadedModel

_ZEROS, _ROLLOFF, _BETA = 64, 0.9475937167399596, 14.769656459379492  # resampy's "kaiser_best"
_AT_ONCE = 8192  # output samples computed together


@dataclass(frozen=True)
class Sound:
    """Samples [N] (float32, mono) at the rate that the model's processor expects, and their digest."""

    samples: Any
    digest: str


def heard(loaded: LoadedModel, given: SoundData) -> Sound:
    """Return a sound as the model hears it. Raises ApiError for one that is longer than it can hear."""
    import numpy as np

    samples: Any = np.frombuffer(given.samples, np.float32)
    limit = seconds_heard(loaded.processor)
    seconds = samples.size / given.rate
    if limit and seconds > limit:
        raise bad_request(
            f"{given.param}: this sound is {seconds:.1f} s long and this model hears {limit:g} s at a time; "
            "send it in pieces.",
            param=given.param,
        )
    rate = int(getattr(getattr(loaded.processor, "feature_extractor", None), "sampling_rate", 16000))
    samples = resampled(samples, given.rate, rate)
    return Sound(samples, hashlib.sha256(samples.tobytes()).hexdigest())


def seconds_heard(processor: Any) -> float:
    """Return how long a sound may be for a processor that cuts longer ones off without a word; 0: as long as it is."""
    tokens = getattr(processor, "audio_seq_length", None)
    if not isinstance(tokens, int) or tokens <= 0:
        return 0.0
    return tokens * float(getattr(processor, "audio_ms_per_token", 160)) / 1000  # Gemma 3n's are 160 ms each


def resampled(samples: Any, rate: int, wanted: int) -> Any:
    """Return samples [N] at another rate [Hz], as float32; the ends go on as they are."""
    import numpy as np

    if rate == wanted or not samples.size:
        return np.ascontiguousarray(samples, np.float32)
    common = math.gcd(rate, wanted)
    up, down = wanted // common, rate // common
    larger = max(up, down)
    half = _ZEROS * larger
    places = np.arange(-half, half + 1)
    fir = np.sinc(places * (_ROLLOFF / larger)) * np.kaiser(2 * half + 1, _BETA)
    fir *= up / fir.sum()
    reach = -(-half // up)  # input samples to each side that an output sample depends on
    offsets = np.arange(-reach, reach + 1)
    at = half + np.arange(up)[:, None] - offsets[None, :] * up
    taps = np.where((at >= 0) & (at < fir.size), fir[np.clip(at, 0, fir.size - 1)], 0.0)  # [up, 2 reach + 1]
    padded = np.pad(samples.astype(np.float64), (reach, reach + 1), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, offsets.size)
    out = np.empty(-(-samples.size * up // down), np.float32)
    for begin in range(0, out.size, _AT_ONCE):
        steps = np.arange(begin, min(out.size, begin + _AT_ONCE)) * down
        out[begin : begin + _AT_ONCE] = np.einsum("nk,nk->n", windows[steps // up], taps[steps % up])
    return out
