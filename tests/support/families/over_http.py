"""The server's answers beside mlx-vlm's own: alone, beside seven others, in pieces, after a kept prefix."""

from __future__ import annotations

import base64
import contextlib
import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from tests.support.families.folder import build
from tests.support.families.reference import Answer, picture
from tests.support.families.scenes import CLOSE, LONG, TEXTS, TIE, Bench
from tests.support.families.spec import FAMILIES
from tests.support.servers import sidecar

TOKENS = 8


def servable(name: str) -> bool:
    """Return whether a server can load a family: not where its code must be changed to make it tiny."""
    return not FAMILIES[name].changes_code


@contextlib.contextmanager
def server(folder: Path, names: Sequence[str]) -> Iterator[str]:
    """Run a server that serves families by their names, one in memory at a time; gives its address."""
    models, data = folder / "models", folder / "data"
    models.mkdir(parents=True)
    data.mkdir()
    for name in names:
        if servable(name):
            (models / name).symlink_to(build(name), target_is_directory=True)
    with sidecar(folder, "--model-dir", str(models), "--no-warm-start", data_dir=data) as running:
        yield running.url


@dataclass(frozen=True)
class Question:
    """A conversation, its pictures (before the first message's text), and mlx-vlm's answer to it."""

    label: str
    messages: list[dict[str, Any]]
    images: list[Image.Image]
    answer: Answer


@dataclass(frozen=True)
class Said:
    """What the server answered: text, log-probabilities, tokens reused."""

    text: str
    logprobs: list[float]
    cached: int


def differences(bench: Bench, url: str) -> list[str]:
    """Return what of the server's answers is not mlx-vlm's own; [] for nothing."""
    name = bench.family.name
    questions = [_question(bench, f"text{n}", [(TEXTS[n])]) for n in range(3)]
    questions.append(_question(bench, "long", [LONG]))  # comes in pieces beside the others
    if bench.sees:
        questions += [_question(bench, f"img{'AB'[n]}", [TEXTS[0]], n, 1) for n in range(2)]
        if bench.family.pictures > 1:
            questions.append(_question(bench, "imgAB", [TEXTS[0]], 0, 2))
    eight = (questions * 3)[:8]
    with httpx.Client(base_url=url, timeout=300) as client, ThreadPoolExecutor(8) as pool:
        alone = [_ask(client, name, q) for q in questions]
        wrong = [f"alone, {w}" for w in _compared(questions, alone)]
        together = list(pool.map(lambda q: _ask(client, name, q), eight))
        wrong += [f"beside seven, {w}" for w in _compared(eight, together)]
        seconds = (
            [_turn(bench, q) for q in (questions[2], *questions[-1:])] if not bench.engine.loaded.can.converse else []
        )
        wrong += [f"turn 2, {w}" for w in _compared(seconds, [_ask(client, name, q) for q in seconds])]
    return wrong


def _question(bench: Bench, label: str, texts: list[str], first: int = 0, count: int = 0) -> Question:
    images = [picture(first + i, bench.family.side) for i in range(count)]
    messages = [{"role": "user", "content": text} for text in texts]
    return Question(label, messages, images, bench.reference.converse(messages, images, tokens=TOKENS))


def _turn(bench: Bench, first: Question) -> Question:
    """Return a next turn. The answer in it is not the model's, whose text may hold markers: those are sent as text."""
    more = [{"role": "assistant", "content": "It is red."}, {"role": "user", "content": "and then?"}]
    messages = [*first.messages, *more]
    answered = bench.reference.converse(messages, first.images, tokens=TOKENS)
    return Question(f"{first.label} and on", messages, first.images, answered)


def _ask(client: httpx.Client, model: str, question: Question) -> Said | str:
    """Ask over HTTP as a client does; return the answer, or what went wrong."""
    messages = [dict(message) for message in question.messages]
    if question.images:
        parts = [{"type": "image_url", "image_url": {"url": _data_url(image)}} for image in question.images]
        messages[0]["content"] = [*parts, {"type": "text", "text": messages[0]["content"]}]
    body = {"model": model, "messages": messages, "temperature": 0, "max_tokens": TOKENS, "logprobs": True}
    reply = client.post("/v1/chat/completions", json=body)
    if reply.status_code != httpx.codes.OK:
        return f"{reply.status_code}: {reply.text[:200]}"
    document = reply.json()
    choice = document["choices"][0]
    tokens = (choice["logprobs"] or {}).get("content") or []
    details = document["usage"].get("prompt_tokens_details") or {}
    if document["usage"]["prompt_tokens"] != question.answer.prompt:
        return f"{document['usage']['prompt_tokens']} prompt tokens, mlx-vlm has {question.answer.prompt}"
    return Said(choice["message"]["content"] or "", [t["logprob"] for t in tokens], details.get("cached_tokens", 0))


def _data_url(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _compared(questions: Sequence[Question], answers: Sequence[Said | str]) -> list[str]:
    return [f"{q.label}: {text}" for q, a in zip(questions, answers, strict=True) if (text := _apart(q.answer, a))]


def _apart(want: Answer, said: Said | str) -> str:
    """Return how an answer differs from mlx-vlm's own; "" for not at all."""
    if isinstance(said, str):
        return said
    for i, score in enumerate(want.logprobs):
        if i >= len(said.logprobs):
            return "" if want.margins[i] <= TIE else f"ended @{i}"
        if not abs(said.logprobs[i] - score) <= CLOSE:
            return "" if want.margins[i] <= TIE else f"@{i} {said.logprobs[i]:.3f} want {score:.3f}"
        if want.margins[i] <= TIE:
            return ""  # the two best scores may change places, and all that follows with them
    return "" if len(said.logprobs) == len(want.logprobs) else "goes on where mlx-vlm ends"
