"""Compare imported GGUF files with llama.cpp itself: the starter's file as it came and written anew in other blocks.

``tools/gguf_parity.sh`` makes an environment for llama.cpp (xllamacpp), which answers twenty prompts. Then each file is
imported as ``mlx-sidecar import`` does and given the same prompts with llama.cpp's own tokens after them; at every step
the log-probabilities of llama.cpp's ten likeliest tokens are compared. Exits 1 beyond ``BOUNDS``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PROMPTS = (
    "The capital of France is",
    "Two and two make",
    "Water boils at",
    "Once upon a time there was a",
    "The quick brown fox",
    "def add(a, b):\n    return",
    "SELECT name FROM users WHERE",
    "Die Hauptstadt von Deutschland ist",
    "La capitale de l'Italie est",
    "1, 2, 3, 4,",
    "The colours of the rainbow are",
    "Dear Sir or Madam,\n\n",
    "Q: What is the largest planet?\nA:",
    "To make tea, first",
    "It's 1234 houses;\n\n we'll see",
    "<|im_start|>user\nName a fruit.<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>user\nSay hello.<|im_end|>\n<|im_start|>assistant\n",
    "In 1969, men landed on",
    "A week has seven days: Monday,",
    "import numpy as np\n\nx = np.",
)
BOUNDS = {"as it came": 0.8, "F16": 0.02, "Q8_0": 0.15, "Q4_0": 0.5}
"""How far a log-probability may be from llama.cpp's, which rounds the activations to 8 bits before it multiplies them
with 4 and 8 bit blocks; MLX doesn't."""
NEAR = 0.25
"""Two scores closer than this may change places."""


def ours(file: Path, folder: Path) -> Any:
    """Return the loaded model of an imported GGUF file, its blocks unpacked to float32 as on a CPU."""
    from sidecar.backend import loader
    from sidecar.models import gguf

    gguf.convert(file, folder, quantized=False, progress=lambda *_: None)
    return loader.load(folder, lambda _: None)


def compare(loaded: Any, prompt: str, answer: dict[str, Any]) -> tuple[list[float], int, int]:
    """Return how far apart the scores are, a number a token compared, and how many greedy tokens are the same, of all.

    A greedy token that isn't llama.cpp's counts as the same where their scores are ``NEAR``. Raises ValueError where
    the prompt has other tokens.
    """
    import mlx.core as mx

    tokens = loaded.tokenizer.encode(prompt, add_special_tokens=False)
    if len(tokens) != answer["prompt_tokens"]:
        raise ValueError(f"{prompt!r} has {len(tokens)} tokens here and {answer['prompt_tokens']} in llama.cpp")
    model = getattr(loaded.model, "language_model", loaded.model)
    output = model(mx.array([[*tokens, *answer["tokens"]]]))
    logits = getattr(output, "logits", output)[0].astype(mx.float32)
    scores = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    apart, same = [], 0
    for step, (token, top) in enumerate(zip(answer["tokens"], answer["top"], strict=True)):
        row: Any = scores[len(tokens) - 1 + step]
        apart += [abs(float(row[int(other)].item()) - score) for other, score in top.items()]
        same += float(mx.max(row).item()) - float(row[token].item()) <= NEAR  # type: ignore[arg-type]
    return apart, same, len(answer["tokens"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="the GGUF file")
    parser.add_argument("--python", required=True, help="the interpreter that has xllamacpp and gguf")
    parser.add_argument("--answers", type=Path, help="what llama.cpp answered before, with its files beside it")
    arguments = parser.parse_args()
    wrong = False
    with tempfile.TemporaryDirectory(prefix="gguf-") as work:
        folder = arguments.answers.parent if arguments.answers else Path(work)
        if arguments.answers is None:
            peer = Path(__file__).with_name("gguf_peer.py")
            command = [arguments.python, str(peer), str(arguments.source), str(folder)]
            subprocess.run(command, input=json.dumps(PROMPTS), text=True, check=True, stderr=subprocess.DEVNULL)
        document = json.loads((folder / "answers.json").read_text("utf-8"))
        for form, found in document.items():
            loaded = ours(Path(found["file"]), Path(work) / f"model-{form.replace(' ', '-')}")
            apart: list[float] = []
            same = total = 0
            for prompt, answer in zip(PROMPTS, found["answers"], strict=True):
                more, right, count = compare(loaded, prompt, answer)
                apart, same, total = apart + more, same + right, total + count
            wrong |= not max(apart) <= BOUNDS[form] or same < total
            print(
                f"{form}: {len(apart)} log-probabilities, at most {max(apart):.3f} apart, {statistics.mean(apart):.4f}"
                f" on average (bound {BOUNDS[form]}); {same} of {total} greedy tokens the same or near"
            )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
