"""mlx-vlm's part in making prompts: chat templates, and what a processor makes of text and pictures."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from sidecar.backend.loader import LoadedModel

_TEXT_ALONE = frozenset({"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"})
_processing = threading.Lock()  # processors keep state between calls


_OF_SOUND = ("input_features", "audio")  # what the names of a processor's arrays of sounds have in them


class PicturesDropped(Exception):
    """The processor took the text and left the pictures or the sounds out."""


def rendered(loaded: LoadedModel, messages: Sequence[dict[str, Any]], images: int, extra: dict[str, Any]) -> Any:
    """Return a conversation as the model's template writes it. Raises what the template raises."""
    from mlx_vlm.prompt_utils import apply_chat_template

    if any(_sounds(m) for m in messages):
        return _rendered_with_sounds(loaded, messages, extra)
    return apply_chat_template(loaded.processor, loaded.model.config, list(messages), num_images=images, **extra)


def _sounds(message: dict[str, Any]) -> int:
    content = message.get("content")
    return sum(p["type"] == "audio" for p in content) if isinstance(content, list) else 0


def _rendered_with_sounds(loaded: LoadedModel, messages: Sequence[dict[str, Any]], extra: dict[str, Any]) -> Any:
    """Return a conversation in which every sound stays with its own message.

    mlx-vlm puts the sounds of a whole conversation into its last question, whichever they belong to. So it is given one
    message at a time, and the template all that it makes of them: with one question the result is its own.
    """
    from mlx_vlm.prompt_utils import apply_chat_template, get_chat_template

    config = loaded.model.config
    made: list[Any] = []
    for message in messages:
        content = message.get("content")
        images = sum(p["type"] == "image" for p in content) if isinstance(content, list) else 0
        counts = {"num_images": images, "num_audios": _sounds(message)}
        made += apply_chat_template(loaded.processor, config, [message], return_messages=True, **counts)
    options = {"add_generation_prompt": True, **extra}
    # Gemma 4's processor would go through mlx-vlm's own way once more.
    writer = loaded.tokenizer if getattr(loaded.tokenizer, "chat_template", None) else loaded.processor
    return get_chat_template(writer, made, **options)


def adds_special_tokens(loaded: LoadedModel) -> bool:
    """Return whether the tokenizer adds markers of its own around a prompt, which the template leaves out."""
    from mlx_vlm.utils import should_add_special_tokens

    return bool(should_add_special_tokens(loaded.model_type, loaded.processor))


def picture_inputs(
    loaded: LoadedModel, text: str, images: Sequence[Any], sounds: Sequence[Any] = (), *, special: bool
) -> dict[str, Any]:
    """Return the processor's arrays of a prompt with pictures and sounds, evaluated.

    Raises what the processor raises, and PicturesDropped.
    """
    import mlx.core as mx
    from mlx_vlm.utils import prepare_inputs

    with _processing:
        inputs = prepare_inputs(
            loaded.processor,
            images=list(images) or None,
            audio=list(sounds) or None,
            prompts=text,
            image_token_index=getattr(loaded.model.config, "image_token_index", None),
            add_special_tokens=special,
        )
        mx.eval([v for v in inputs.values() if isinstance(v, mx.array)])
    if all(value is None for name, value in inputs.items() if name not in _TEXT_ALONE):
        raise PicturesDropped("this model's image processor could not be built, so pictures would be left out")
    if sounds and not any(word in name for name, v in inputs.items() if v is not None for word in _OF_SOUND):
        raise PicturesDropped("this model's processor makes nothing of sounds")
    return dict(inputs)


def picture_alone(loaded: LoadedModel, image: Any) -> dict[str, Any]:
    """Return the processor's arrays of one picture in the words in which models of embeddings are given one."""
    from mlx_vlm.prompt_utils import get_chat_template

    messages = [{"role": "user", "content": [{"type": "image"}]}]
    text = get_chat_template(loaded.processor, messages, add_generation_prompt=True)
    return picture_inputs(loaded, text, [image], special=False)


def kept_columns(inputs: dict[str, Any], kept: Sequence[int]) -> dict[str, Any] | None:
    """Return the arrays without the tokens whose positions aren't ``kept``, evaluated: the engine's thread reads them.

    None where other arrays say by number at which tokens the pictures stand, so that none may go.
    """
    import mlx.core as mx

    if any(word in name for name in inputs for word in ("bound", "idx", "index", "position")):
        return None
    shape = inputs["input_ids"].shape
    columns = mx.array(list(kept))
    out = {
        name: value[:, columns] if isinstance(value, mx.array) and value.shape == shape else value
        for name, value in inputs.items()
    }
    mx.eval([v for v in out.values() if isinstance(v, mx.array)])  # a lazy array belongs to the thread that made it
    return out
