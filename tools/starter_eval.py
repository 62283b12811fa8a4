"""Score the starter model's eyes on the held-out pictures, through a running server or mlx-vlm itself.

    python -m tools.starter_eval --base-url http://127.0.0.1:60316/v1 --model starter
    python -m tools.starter_eval --folder PATH [--text-folder PATH]

Prints one line a kind with its goal; ``--text-folder`` also compares greedy text answers, token for token.
Ends with 0 when every goal is met, else 1.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HELD_OUT = Path(__file__).with_name("starter_vision") / "heldout.zip"
GOALS = {"colour_shape": 0.95, "count": 0.9, "relation": 0.9, "emoji": 0.7, "word": 0.8}
_TOPICS = [
    "the capital of France",
    "photosynthesis",
    "a haiku about rain",
    "how tides work",
    "prime numbers",
    "the French Revolution",
    "how to boil an egg",
    "the speed of light",
    "Newton's laws",
    "a story about a fox",
    "the <img> tag in HTML",
    "Python lists",
    "the water cycle",
    "healthy breakfasts",
    "the moon landing",
    "gravity",
    "how bees make honey",
    "black holes",
    "jazz music",
    "chess",
]
_FORMS = ("What do you know about {}?", "Explain {}.", "Write two sentences about {}.", "Why is {} important?")
TEXT_PROMPTS = tuple(form.format(topic) for topic in _TOPICS for form in (*_FORMS, "Ask me a question about {}."))
"""One hundred questions without a picture."""
Ask = Callable[[bytes, str], str]


def right(wanted: list[str], answer: str) -> bool:
    """Whether each wanted word (or one of its "|" alternatives) stands in the answer, ignoring case."""
    words = " ".join("".join(c if c.isalnum() else " " for c in answer.lower()).split()).join((" ", " "))
    return all(any(f" {part.lower()} " in words for part in entry.split("|")) for entry in wanted)


def held_out(limit: int) -> Iterator[tuple[dict[str, Any], bytes]]:
    """(question, WebP) of every held-out picture, at most ``limit`` a kind."""
    seen: dict[str, int] = {}
    with zipfile.ZipFile(HELD_OUT) as archive:
        for entry in json.loads(archive.read("questions.json")):
            seen[entry["kind"]] = seen.get(entry["kind"], 0) + 1
            if seen[entry["kind"]] <= limit:
                yield entry, archive.read(entry["file"])


def through_server(base_url: str, model: str) -> Ask:
    """Ask over the OpenAI API, pictures as data URLs."""
    import httpx

    client = httpx.Client(base_url=base_url, timeout=120)

    def ask(picture: bytes, question: str) -> str:
        url = f"data:image/webp;base64,{base64.b64encode(picture).decode()}"
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}]
        body = {
            "model": model,
            "messages": [{"role": "user", "content": content}],
            "temperature": 0,
            "max_tokens": 24,
        }
        answer = client.post("/chat/completions", json=body)
        if answer.is_error:
            raise SystemExit(f"The server answered {answer.status_code}: {answer.text[:300]}")
        return str(answer.json()["choices"][0]["message"]["content"])

    return ask


def through_library(folder: Path) -> Ask:
    """Ask mlx-vlm."""
    from mlx_vlm import generate
    from mlx_vlm.prompt_utils import apply_chat_template
    from mlx_vlm.utils import load
    from PIL import Image

    model, processor = load(str(folder))

    def ask(picture: bytes, question: str) -> str:
        image = Image.open(io.BytesIO(picture)).convert("RGB")
        prompt = apply_chat_template(processor, model.config, question, num_images=1)
        answer = generate(model, processor, prompt, image=[image], max_tokens=24, temperature=0.0, verbose=False)
        return str(answer.text)

    return ask


def text_differences(seeing: Path, text: Path, *, prompts: int, tokens: int) -> list[str]:
    """Prompts whose greedy answers differ in any token between two model folders."""
    import mlx.core as mx
    from mlx_vlm import generate
    from mlx_vlm.prompt_utils import apply_chat_template
    from mlx_vlm.utils import load

    answers: list[list[tuple[str, str]]] = []
    for folder in (seeing, text):
        model, processor = load(str(folder))
        answers.append([])
        for question in TEXT_PROMPTS[:prompts]:
            prompt = apply_chat_template(processor, model.config, question, num_images=0)
            answer = generate(model, processor, prompt, max_tokens=tokens, temperature=0.0, verbose=False)
            answers[-1].append((str(prompt), str(answer.text)))
        del model
        mx.clear_cache()
    return [q for q, a, b in zip(TEXT_PROMPTS, *answers, strict=False) if a != b]


def main() -> int:
    """Entry point; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--base-url", help="an OpenAI API, up to and with /v1")
    source.add_argument("--folder", type=Path, help="the model's folder, asked through mlx-vlm")
    parser.add_argument("--model", default="starter")
    parser.add_argument("--limit", type=int, default=1000, help="pictures of a kind")
    parser.add_argument("--text-folder", type=Path, help="the text model to compare text answers with")
    parser.add_argument("--text-prompts", type=int, default=len(TEXT_PROMPTS))
    parser.add_argument("--text-tokens", type=int, default=12, help="tokens of every compared answer")
    parser.add_argument("--show", action="store_true", help="print every wrong answer")
    args = parser.parse_args()
    ask = through_server(args.base_url, args.model) if args.base_url else through_library(args.folder)
    counts: dict[str, list[int]] = {kind: [] for kind in GOALS}
    for entry, picture in held_out(args.limit):
        answer = ask(picture, entry["question"])
        good = right(entry["wanted"], answer)
        counts[entry["kind"]].append(good)
        if args.show and not good:
            print(f"  {entry['question']} | {entry['answer']} | {answer}", flush=True)
    met = True
    for kind, results in counts.items():
        share = sum(results) / max(1, len(results))
        met &= share >= GOALS[kind]
        verdict = "met" if share >= GOALS[kind] else f"missed by {GOALS[kind] - share:.0%}"
        print(
            f"{kind:13} {sum(results):4} of {len(results):4} = {share:.0%}  goal {GOALS[kind]:.0%}: {verdict}",
            flush=True,
        )
    if args.text_folder and args.folder:
        different = text_differences(args.folder, args.text_folder, prompts=args.text_prompts, tokens=args.text_tokens)
        met &= not different
        print(
            f"text answers: {args.text_prompts - len(different)} of {args.text_prompts} identical",
            *different,
            sep="\n  ",
        )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
