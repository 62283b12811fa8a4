"""How a conversation with one picture becomes tokens, as the model's template and processor write it."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from random import Random

import numpy as np

IMAGE, AROUND, GLOBAL = "<empty_output>", "<jupyter_output>", "<jupyter_text>"
"""Special tokens of the vocabulary, unused in chat, that mark a picture."""
DEFAULT_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
_SYSTEMS = (
    "You are a helpful assistant.",
    "Answer briefly.",
    "You describe pictures.",
    "You are a helpful assistant that can see images. Answer the question about the picture.",
)
LENGTH = 100  # tokens of a training row


class Tokens:
    """The tokenizer with the prompt's fixed parts."""

    def __init__(self, file: Path, image_tokens: int) -> None:
        self._file = file
        self.image_tokens = image_tokens

    @cached_property
    def _tokenizer(self) -> object:
        from tokenizers import Tokenizer

        return Tokenizer.from_file(str(self._file))

    def prompt(self, question: str, system: str = DEFAULT_SYSTEM) -> str:
        """The prompt's text."""
        picture = f"{AROUND}{GLOBAL}{IMAGE * self.image_tokens}{AROUND}"
        return (
            f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{picture}{question}<|im_end|>\n"
            "<|im_start|>assistant\n"
        )

    def row(
        self, question: str, answer: str, rng: Random | None = None, *, spelled: str = ""
    ) -> tuple[np.ndarray, int, int] | None:
        """Token ids [LENGTH] int32, where the answer starts, and where the row ends; None if it is too long."""
        system = rng.choice(_SYSTEMS) if rng is not None and rng.random() < 0.15 else DEFAULT_SYSTEM
        before = self.encode(self.prompt(question, system))
        after = self.encode(f"{answer}<|im_end|>")
        if spelled:
            head, _, tail = answer.partition(f" {spelled}")
            after = self.encode(head) + self.letters(spelled) + self.encode(f"{tail}<|im_end|>")
        if len(before) + len(after) > LENGTH:
            return None
        ids = np.zeros(LENGTH, np.int32)
        ids[: len(before) + len(after)] = before + after
        return ids, len(before), len(before) + len(after)

    def letters(self, word: str) -> list[int]:
        """A word after a space, a token for every letter."""
        vocabulary = self._vocabulary
        first = [vocabulary[f"Ġ{word[0]}"]] if not word[0].isdigit() else [vocabulary["Ġ"], vocabulary[word[0]]]
        return first + [vocabulary[c] for c in word[1:]]

    @cached_property
    def _vocabulary(self) -> dict[str, int]:
        return dict(self._tokenizer.get_vocab())  # type: ignore[attr-defined]

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text``."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)  # type: ignore[attr-defined]

    def decode(self, ids: list[int]) -> str:
        """Text of token ids, without special tokens."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))  # type: ignore[attr-defined]

    @cached_property
    def image_id(self) -> int:
        """The image token's id."""
        return self.encode(IMAGE)[0]
