"""Gemma 4 with its ears, tiny: the family of the matrix and an audio tower of random weights."""

from __future__ import annotations

import io
import wave
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.families import folder, google
from tests.support.families.spec import FAMILIES, Config, Ids

RATE = 16000


def gemma4(path: Path) -> Path:
    """Write the model into ``path`` and return it."""
    deaf = FAMILIES["gemma4"]

    def config(ids: Ids) -> Config:
        ears = {
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "subsampling_conv_channels": [8, 4],
            "output_proj_dims": 32,
            "use_clipped_linears": False,
        }
        return {**deaf.config(ids), "audio_config": ears}

    sound = "{% elif p.type == 'audio' %}<audio_soft_token>"
    template = google._turns("<image_soft_token>").replace("<image_soft_token>", "<image_soft_token>" + sound, 1)
    family = replace(deaf, name="gemma4_hears", config=config, template=template)
    path.mkdir(parents=True, exist_ok=True)
    folder.write(family, path)
    return path


def tone(pitch: float, seconds: float = 1.0, *, rate: int = RATE, channels: int = 1) -> bytes:
    """Return a WAV file of a tone [Hz] that grows louder."""
    times = np.arange(round(seconds * rate)) / rate
    samples = np.round(20000 * np.sin(2 * np.pi * pitch * times) * times / seconds).astype("<i2")
    sink = io.BytesIO()
    with wave.open(sink, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.repeat(samples, channels).tobytes())
    return sink.getvalue()


def reference_inputs(reference: Any, text: str, files: list[Path]) -> dict[str, Any]:
    """Return what mlx-vlm's own processor makes of one question with sounds, read by mlx-vlm itself."""
    from mlx_vlm.prompt_utils import apply_chat_template
    from mlx_vlm.utils import prepare_inputs, should_add_special_tokens

    config = reference.model.config
    messages = [{"role": "user", "content": text}]
    prompt = apply_chat_template(reference.processor, config, messages, num_images=0, num_audios=len(files))
    special = should_add_special_tokens(config.model_type, reference.processor)
    audio = [str(f) for f in files]
    return dict(prepare_inputs(reference.processor, audio=audio, prompts=prompt, add_special_tokens=special))
