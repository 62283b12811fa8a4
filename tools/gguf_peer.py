"""llama.cpp's half of tools/gguf_parity.py: write a GGUF anew in other kinds of block, and say what llama.cpp answers.

Runs in an environment of its own (xllamacpp, gguf, numpy), which tools/gguf_parity.sh makes; prints one JSON document.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

TOKENS = 12
TOP = 10
FORMS = ("F16", "Q8_0", "Q4_0")


def rewrite(source: Path, target: Path, kind: str) -> None:
    """Write ``source`` with all its matrices as blocks of ``kind``."""
    import numpy as np

    gguf: Any = importlib.import_module("gguf")
    quants: Any = importlib.import_module("gguf.quants")
    reader = gguf.GGUFReader(str(source))
    fields = {name: field for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    writer = gguf.GGUFWriter(str(target), fields["general.architecture"].contents())
    for name, field in fields.items():
        if name in ("general.architecture", "general.file_type"):
            continue
        inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], sub_type=inner)
    for tensor in reader.tensors:
        plain = quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        matrix = len(tensor.shape) > 1 and "norm" not in tensor.name
        to = gguf.GGMLQuantizationType[kind if matrix else "F32"]
        data = quants.quantize(plain, to)
        writer.add_tensor(tensor.name, data, raw_dtype=to)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def answers(file: Path, prompts: list[str]) -> list[dict[str, Any]]:
    """Return llama.cpp's greedy answer to each prompt, with the log-probabilities of the likeliest tokens a step."""
    x: Any = importlib.import_module("xllamacpp")
    params = x.CommonParams()
    params.model.path = str(file)
    params.n_ctx, params.n_parallel, params.warmup = 1024, 1, False
    params.cpuparams_batch.n_threads = 1
    params.cpuparams.n_threads = 1  # more wait for each other by spinning, on a busy machine without end
    server = x.Server(params)
    found = []
    for prompt in prompts:
        body = {
            "prompt": prompt,
            "n_predict": TOKENS,
            "temperature": 0,
            "logprobs": TOP,
            "cache_prompt": False,
            "samplers": ["temperature"],
        }
        reply: Any = server.handle_completions(body)
        reply = json.loads(reply) if isinstance(reply, str) else reply
        steps = reply["choices"][0]["logprobs"]["content"]
        found.append(
            {
                "prompt_tokens": reply["usage"]["prompt_tokens"],
                "tokens": [step["id"] for step in steps],
                "top": [{str(t["id"]): t["logprob"] for t in step["top_logprobs"]} for step in steps],
            }
        )
    return found


def main() -> None:
    source, folder = Path(sys.argv[1]), Path(sys.argv[2])
    prompts = json.load(sys.stdin)
    out: dict[str, Any] = {"as it came": {"file": str(source), "answers": answers(source, prompts)}}
    for name in FORMS:
        file = folder / f"{name}.gguf"
        rewrite(source, file, name)
        out[name] = {"file": str(file), "answers": answers(file, prompts)}
    (folder / "answers.json").write_text(json.dumps(out), "utf-8")


if __name__ == "__main__":
    main()
