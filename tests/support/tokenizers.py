"""Small tokenizers of the kinds that models have."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

TEXTS = {
    "chinese": "人工智能正在改变世界,我们每天都在使用它。",
    "japanese": "むかしむかし、あるところに、おじいさんとおばあさんがいました。",
    "thai": "สวัสดีครับ วันนี้อากาศดีมาก",
    "arabic": "مرحبا بالعالم، كيف حالك اليوم؟",
    "family": "👨‍👩‍👧‍👦 and 👩🏽‍🚀 and 🇨🇭",
    "combining": "Z͑ͫ̓a̴l̷g̸o e\u0301 नमस्ते",
    "code": 'if (a<b){return"x"}//\t\t  done\n\n\n',
    "marker": "<｜tool▁calls▁begin｜>f<｜tool▁calls▁end｜>",
}
ADDED = ["<s>", "</s>", "<unk>", "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "[TOOL_CALLS]"]


def _fast(tokenizer: Tokenizer) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )


@cache
def byte_level() -> Any:
    """Return a byte-level tokenizer as DeepSeek's, with added tokens outside of its alphabet."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(list(TEXTS.values()), trainer)
    tokenizer.add_tokens([AddedToken(t, special=True, normalized=False) for t in ADDED])
    return _fast(tokenizer)


@cache
def sentence_pieces(strips: bool = True) -> Any:
    """Return a tokenizer as Llama 2's (``strips``) or Gemma's: pieces, and bytes for what has none."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256))]
    words += [*"▁abcdefghijklmnopqrstuvwxyz,.", "▁a", "▁an", "nd", "▁and", "界", "世界"]
    merges = [("▁", "a"), ("▁a", "n"), ("n", "d"), ("▁a", "nd"), ("世", "界")]
    words.append("世")
    tokenizer = Tokenizer(
        models.BPE({w: i for i, w in enumerate(words)}, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    replaced = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replaced]) if strips else replaced
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if strips else steps)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ADDED])
    return _fast(tokenizer)


@cache
def metaspace() -> Any:
    """Return a Unigram tokenizer with a Metaspace decoder, as T5's children have."""
    pieces = [("<unk>", 0.0), *((c, -5.0) for c in "▁abcdefghijklmnopqrstuvwxyz世界"), ("▁and", -2.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return _fast(tokenizer)


@cache
def _loaded(folder: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


KINDS = ("starter", "deepseek", "llama2", "gemma", "metaspace")


def tokenizer(kind: str, starter: Path) -> Any:
    """Return the tokenizer of a kind; ``starter`` is the folder of the model that is shipped."""
    if kind == "starter":
        return _loaded(str(starter))
    if kind == "deepseek":
        return byte_level()
    return metaspace() if kind == "metaspace" else sentence_pieces(kind == "llama2")
