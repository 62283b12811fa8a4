"""Turn a GGUF into a model folder mlx-vlm loads. Architectures llama, qwen2 and qwen3, byte-level BPE vocabularies.

GGUF stores llama's q and k rows interleaved for rope: within a head, row ``2 i + j`` is row ``j d/2 + i`` of the usual
layout; qwen's are stored as they are. The tokenizer and chat template come out of the file's metadata. Blocks of 4 and
8 bits (Q4_0, Q4_1, Q8_0) keep their values; MLX reads other kinds as float16.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Progress = Callable[[str, int, int], None]

_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
_CONTROL, _USER = 3, 4  # GGUF's token types: special, and added by the model's maker
_ROPE_FACTORS = (8.0, 32.0)  # of Llama 3.1 and 3.2
GROUP_SIZE = 32
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = {"llama-bpe": _WORDS + r"\p{N}{1,3}" + _REST, "qwen2": _WORDS + r"\p{N}" + _REST}
_PLAIN = ("smollm", "gpt-2", "default")


class GGUFError(Exception):
    """A file that can't be converted; the message says why."""


@dataclass(frozen=True)
class _File:
    """A file's metadata, by short names."""

    architecture: str
    meta: dict[str, Any]

    def value(self, key: str) -> Any:
        """A value of the architecture's own, or None."""
        return self.plain(f"{self.architecture}.{key}")

    def number(self, key: str) -> int:
        """A needed number of the architecture's own. Raises GGUFError."""
        value = self.value(key)
        if value is None:
            raise GGUFError(f"it says nothing about {self.architecture}.{key}.")
        return int(value)

    def plain(self, key: str) -> Any:
        """A value by its whole name, or None."""
        value: Any = self.meta.get(key)
        return value.item() if getattr(value, "size", 0) == 1 else value


def convert(gguf: Path, out: Path, *, quantized: bool, keep_bits: tuple[int, ...] = (4, 8), progress: Progress) -> None:
    """Write config, weights, tokenizer and chat template into the folder ``out``. Raises GGUFError, OSError.

    ``quantized`` keeps blocks of ``keep_bits`` (for Metal); all else is float16 then, or float32 (MLX's CPU kernels for
    quantized weights are slow).
    """
    import mlx.core as mx

    try:
        both: Any = mx.load(str(gguf), format="gguf", return_metadata=True)
    except Exception as exc:
        raise GGUFError(f"it can't be read as GGUF ({str(exc).strip() or type(exc).__name__}).") from exc
    raw, meta = both
    file = _File(str(meta.get("general.architecture")), meta)
    _check(file)
    factors = raw.pop("rope_freqs.weight", None)
    rope = None if factors is None else _rope_scaling(file, [float(f) for f in factors.tolist()])
    heads = {}
    if file.architecture == "llama":
        heads = {"attn_q": file.number("attention.head_count"), "attn_k": _kv_heads(file)}
    weights: dict[str, Any] = {}
    kept: dict[str, int] = {}
    bases = sorted({name.rpartition(".")[0] for name in raw})
    for done, base in enumerate(bases, 1):
        parts = ("weight", "scales", "biases", "bias")
        tensors = {part: raw[f"{base}.{part}"] for part in parts if f"{base}.{part}" in raw}
        if (count := heads.get(base.rpartition(".")[2])) is not None:
            tensors = {part: _unrope(tensor, count) for part, tensor in tensors.items()}
        name = _target(base)
        bits = _bits(tensors)
        if bits:
            kept[name] = bits if quantized and bits in keep_bits else 0
        weights.update(_stored(mx, name, tensors, quantized, keep=bool(kept.get(name))))
        mx.eval(list(weights.values()))
        progress("converting", done, len(bases))
    out.mkdir(parents=True, exist_ok=True)
    mx.save_safetensors(str(out / "model.safetensors"), weights, metadata={"format": "mlx"})
    write(out / "config.json", _config(file, kept, rope, quantized=quantized, tied="output.weight" not in raw))
    _write_tokenizer(out, file)


def write(path: Path, document: dict[str, Any]) -> None:
    """A document as JSON."""
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False), "utf-8")


def _check(file: _File) -> None:
    if file.architecture not in _CLASSES:
        known = ", ".join(_CLASSES)
        raise GGUFError(f"it is of architecture {file.architecture}, and {known} can be imported.")
    if file.value("expert_count"):
        raise GGUFError("it is a mixture of experts, which can't be imported.")
    if file.value("rope.scaling.type") not in (None, "none"):
        raise GGUFError(f"its rope scaling {file.value('rope.scaling.type')!r} can't be imported.")
    model, pre = file.plain("tokenizer.ggml.model"), file.plain("tokenizer.ggml.pre") or "default"
    if model != "gpt2":
        raise GGUFError(f"its vocabulary is of kind {model!r}, and only byte-level BPE (gpt2) can be imported.")
    if pre not in _SPLITS and pre not in _PLAIN:
        raise GGUFError(f"its way of cutting words, {pre!r}, is not known here.")
    _vocabulary(file)


def _kv_heads(file: _File) -> int:
    return int(file.value("attention.head_count_kv") or file.number("attention.head_count"))


def _target(base: str) -> str:
    if base in _TOP:
        return _TOP[base]
    try:
        _, layer, kind = base.split(".")
        return f"model.layers.{int(layer)}.{_NAMES[kind]}"
    except (ValueError, KeyError):
        raise GGUFError(f"it has weights {base!r}, which this program does not know.") from None


def _unrope(tensor: Any, heads: int) -> Any:
    rows = tensor.shape[0] // heads
    return tensor.reshape(heads, rows // 2, 2, -1).swapaxes(1, 2).reshape(tensor.shape)


def _bits(tensors: dict[str, Any]) -> int:
    if "scales" not in tensors:
        return 0
    return int(tensors["weight"].shape[-1] * 32 // (tensors["scales"].shape[-1] * GROUP_SIZE))


def _stored(mx: Any, name: str, tensors: dict[str, Any], quantized: bool, *, keep: bool) -> dict[str, Any]:
    dtype = mx.float16 if quantized else mx.float32
    bias = {f"{name}.bias": tensors["bias"].astype(dtype)} if "bias" in tensors else {}
    if "scales" not in tensors:
        return {f"{name}.weight": tensors["weight"].astype(dtype)} | bias if "weight" in tensors else bias
    packed, scales, biases = tensors["weight"], tensors["scales"], tensors["biases"]
    if keep:
        return {f"{name}.weight": packed, f"{name}.scales": scales, f"{name}.biases": biases} | bias
    bits = _bits(tensors)
    plain = mx.dequantize(
        packed, scales.astype(mx.float32), biases.astype(mx.float32), group_size=GROUP_SIZE, bits=bits
    )
    return {f"{name}.weight": plain.astype(dtype)} | bias


def _rope_scaling(file: _File, factors: list[float]) -> dict[str, Any]:
    """Llama 3's rope scaling from the factors it leads to. Raises GGUFError when it is another."""
    import math

    base, size = float(file.value("rope.freq_base") or 10000.0), len(factors) * 2
    for factor in _ROPE_FACTORS:
        low, high, context = 1.0, 4.0, 8192
        expected = []
        for i in range(0, size, 2):
            wave = 2 * math.pi * base ** (i / size)
            if wave < context / high:
                expected.append(1.0)
            elif wave > context / low:
                expected.append(factor)
            else:
                smooth = (context / wave - low) / (high - low)
                expected.append(1 / ((1 - smooth) / factor + smooth))
        if all(abs(a - b) <= 0.01 * b for a, b in zip(factors, expected, strict=True)):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": context,
            }
    raise GGUFError("its rope factors are not those of Llama 3.1 or 3.2; it can't be imported.")


def _config(
    file: _File, kept: dict[str, int], rope: dict[str, Any] | None, *, quantized: bool, tied: bool
) -> dict[str, Any]:
    heads = file.number("attention.head_count")
    hidden = file.number("embedding_length")
    width = file.value("attention.key_length") or file.value("rope.dimension_count") or hidden // heads
    config: dict[str, Any] = {
        "architectures": [_CLASSES[file.architecture]],
        "model_type": file.architecture,
        "hidden_size": hidden,
        "intermediate_size": file.number("feed_forward_length"),
        "num_hidden_layers": file.number("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": _kv_heads(file),
        "head_dim": int(width),
        "rms_norm_eps": float(file.value("attention.layer_norm_rms_epsilon") or 1e-6),
        "rope_theta": float(file.value("rope.freq_base") or 10000.0),
        "max_position_embeddings": file.number("context_length"),
        "vocab_size": len(file.meta["tokenizer.ggml.tokens"]),
        "tie_word_embeddings": tied,
    }
    for key in ("bos", "eos"):
        if (token := file.plain(f"tokenizer.ggml.{key}_token_id")) is not None:
            config[f"{key}_token_id"] = int(token)
    config["torch_dtype"] = "float16" if quantized else "float32"
    if rope is not None:
        config["rope_scaling"] = rope
    if any(kept.values()):
        usual = Counter(b for b in kept.values() if b).most_common(1)[0][0]
        config["quantization"] = {"group_size": GROUP_SIZE, "bits": usual}
        for name, bits in kept.items():
            if bits != usual:
                config["quantization"][name] = {"group_size": GROUP_SIZE, "bits": bits} if bits else False
    return config


def _vocabulary(file: _File) -> tuple[list[str], list[int], list[tuple[str, str]]]:
    """Return the tokens, the kind of each, and the merges in their order. Raises GGUFError where one is missing."""
    found: dict[str, Any] = {}
    for name in ("tokens", "token_type", "merges"):
        found[name] = file.meta.get(f"tokenizer.ggml.{name}")
        if found[name] is None:
            raise GGUFError(f"its vocabulary has no {name} (tokenizer.ggml.{name}); a newer conversion writes them.")
    tokens, kinds = [str(token) for token in found["tokens"]], [int(kind) for kind in found["token_type"].tolist()]
    merges = [tuple(str(merge).split(" ")) for merge in found["merges"]]
    if len(kinds) != len(tokens):
        raise GGUFError(f"its vocabulary has {len(tokens)} tokens, and the kinds of {len(kinds)}.")
    if wrong := next((merge for merge in merges if len(merge) != 2), None):
        raise GGUFError(f"its vocabulary has a merge of {len(wrong)} parts ({' '.join(wrong)[:60]!r}), not of two.")
    return tokens, kinds, [(first, second) for first, second in merges]


def _write_tokenizer(out: Path, file: _File) -> None:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    tokens, kinds, merges = _vocabulary(file)
    pre = file.plain("tokenizer.ggml.pre") or "default"
    vocab = {t: i for i, t in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=pre == "llama-bpe"))
    if pre in _SPLITS:
        if pre == "qwen2":
            tokenizer.normalizer = normalizers.NFC()
        parts: list[Any] = [pre_tokenizers.Split(Regex(_SPLITS[pre]), "isolated")]
        parts.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    else:
        parts = [pre_tokenizers.Digits(individual_digits=True)] if pre == "smollm" else []
        parts.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)
    tokenizer.decoder = decoders.ByteLevel()
    special = [t for t, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL]
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    tokenizer.add_tokens(
        [AddedToken(t, special=False, normalized=False) for t, k in zip(tokens, kinds, strict=True) if k == _USER]
    )

    def token(key: str) -> str | None:
        number = file.plain(f"tokenizer.ggml.{key}_token_id")
        return None if number is None else tokens[int(number)]

    bos, eos = token("bos"), token("eos")
    if file.plain("tokenizer.ggml.add_bos_token") and bos is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, vocab[bos])]
        )
    tokenizer.save(str(out / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": bos,
        "eos_token": eos,
        "pad_token": eos,
        "unk_token": token("unknown"),
        "additional_special_tokens": special,
        "model_max_length": file.number("context_length"),
        "clean_up_tokenization_spaces": False,
        "chat_template": file.plain("tokenizer.chat_template"),
    }
    write(out / "tokenizer_config.json", {k: v for k, v in config.items() if v is not None})
    if template := file.plain("tokenizer.chat_template"):
        (out / "chat_template.jinja").write_text(template, "utf-8")
