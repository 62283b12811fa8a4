"""What is told before the first token: as events, as comments, in /health."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from sidecar.api.progress import Load, document, words
from sidecar.engine.control import Progress
from sidecar.engine.messages import Tier
from sidecar.engine.progress import Pace, Watch, fitted
from tests.support.benches import Bench, noise


def lines_of(http: httpx.Client, path: str, **body: Any) -> list[str]:
    """Return the lines of a stream."""
    with http.stream("POST", path, json={"model": "starter", "temperature": 0, **body, "stream": True}) as answer:
        assert answer.status_code == 200, answer.read()
        return [line for line in answer.iter_lines() if line]


def long(seed: int, words: int = 240) -> str:
    return f"Text {seed}: " + " ".join(f"{seed + i * 7}" for i in range(words // 3)) + " Answer in a word."


def test_events_tell_the_load_and_the_prompt(http: httpx.Client) -> None:
    http.post("/v1/models/starter/unload")
    options = {"include_progress": True, "include_usage": True}
    content = [{"role": "user", "content": long(1)}]
    lines = lines_of(http, "/v1/chat/completions", messages=content, stream_options=options, max_tokens=2)
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    told = [c["progress"] for c in chunks if "progress" in c]
    assert "loading" in {p["stage"] for p in told}
    assert all(p["model"] == "starter" for p in told if p["stage"] == "loading")
    first = next(i for i, c in enumerate(chunks) if c["choices"] and c["choices"][0]["delta"].get("content"))
    assert not any("progress" in c for c in chunks[first:])
    assert all(c["object"] == "chat.completion.chunk" for c in chunks)
    done = [p["tokens_done"] for p in told if p["stage"] == "prompt"]
    assert done == sorted(done)
    assert {p["tokens"] for p in told if p["stage"] == "prompt"} <= {chunks[-1]["usage"]["prompt_tokens"]}
    assert http.get("/health").json()["progress"] == []


def test_the_queue_is_told_in_its_order(model_dir: Path, tmp_path: Path) -> None:
    bench = Bench(model_dir / "tiny-vl", tmp_path)
    try:
        looks: list[list[Progress]] = []
        with bench.held():
            sent = [bench.send(f"Question {n} " * (n + 1), max_tokens=2, tier=Tier(n == 0)) for n in range(3)]
            sent.append(bench.send(bench.prompt("What is it?", noise(1), noise(2)), max_tokens=2))
            for number, one in enumerate(sent, 1):
                one.request.job = number
            bench.engine._put(lambda: looks.append(Watch().look(bench.core, time.monotonic())))
        assert all(one.ended.wait(60) for one in sent)
        (told,) = looks
        assert [p.id for p in told] == [2, 3, 4, 1]  # the batch request is the last
        assert [p.ahead for p in told] == [0, 1, 2, 3]
        assert {p.stage for p in told} == {"queued"}
        assert [p.pictures for p in told] == [0, 0, 2, 0]
        assert [p.tokens for p in told] == [len(sent[p.id - 1].request.prompt.tokens) for p in told]
        assert bench.on_engine(lambda: Watch().look(bench.core, time.monotonic())) == []
        watch = Watch()
        beside = bench.send("Hello", max_tokens=2000)  # alone, a prompt is processed whole and has no parts
        while not beside.tokens:
            time.sleep(0.01)
        reading = bench.send("A long question. " * 400, max_tokens=1)
        reading.request.job = 9
        seen: list[Progress] = []
        while not reading.ended.is_set():
            seen += bench.on_engine(lambda: watch.look(bench.core, time.monotonic()))
        bench.engine.cancel(bench.path, beside.request.id)
        parts = [p for p in seen if p.stage == "prompt"]
        assert all(p.id == 9 and 0 <= p.tokens_done < p.tokens for p in parts)
        assert any(p.tokens_done for p in parts)
    finally:
        bench.engine.stop()


def test_who_does_not_ask_gets_comments_and_pings_that_clients_skip(http: httpx.Client) -> None:
    http.post("/v1/models/starter/unload")
    text = long(5)
    chat = lines_of(http, "/v1/chat/completions", messages=[{"role": "user", "content": text}], max_tokens=2)
    assert not any('"progress"' in line for line in chat)
    body = {"messages": [{"role": "user", "content": long(6)}], "max_tokens": 2}
    message = lines_of(http, "/v1/messages", **body)
    told = [json.loads(line[6:]) for line in message if line.startswith("data: ")]
    assert told[0]["type"] == "message_start"
    assert {t["type"] for t in told if "progress" in t} <= {"ping"}
    comments = [line for line in (*chat, *message) if line.startswith(":")]
    assert comments or any("progress" in t for t in told)


def test_a_refusal_comes_with_its_status_and_a_late_one_in_the_stream(http: httpx.Client) -> None:
    content = [{"role": "user", "content": "Hello"}]
    options = {"include_progress": True}
    body = {"messages": content, "stream": True, "stream_options": options}
    assert http.post("/v1/chat/completions", json={**body, "model": "nobody"}).status_code == 404
    assert http.post("/v1/messages", json={"model": "nobody", "max_tokens": 1, **body}).status_code == 404


def test_seconds_left_follow_a_prompts_own_pace() -> None:
    pace = Pace(started=100.0, first=0)
    for step in range(1, 9):
        tokens = 256 * step
        pace.note(100.0 + 0.001 * tokens + 1e-7 * tokens**2, tokens)
    now = 100.0 + pace.points[-1][1]
    whole = 8000
    left = 0.001 * whole + 1e-7 * whole**2 - pace.points[-1][1]
    assert pace.left(whole - 2048, now) == pytest.approx(left, rel=0.01)
    assert pace.left(whole - 2048, now + 1) == pytest.approx(left - 1, rel=0.01)
    assert Pace(0.0, 0).left(10, 1.0) is None
    for tokens in range(3000, 60000, 100):
        pace.note(100.0 + tokens, tokens)
    assert len(pace.points) <= 64
    assert fitted([(1.0, 2.0)]) == (2.0, 0.0)
    assert min(fitted([(1.0, 5.0), (2.0, 6.0), (3.0, 6.5), (4.0, 6.6)])) >= 0
    assert min(fitted([(1.0, 0.1), (2.0, 6.0), (3.0, 16.5), (4.0, 36.6)])) >= 0


@pytest.mark.parametrize("slower", [0.6, 1.0, 2.5])
@pytest.mark.parametrize("first", [0, 1500])
def test_a_tenth_of_the_wait_tells_the_rest_once_a_prompt_was_read(slower: float, first: int) -> None:
    def read(pace: Pace, until: int, factor: float) -> float:
        took = 0.0
        for tokens in range(pace.first, until, 64):
            at = tokens + 64
            took = factor * (0.002 * (at - pace.first) + 4e-7 * (at**2 - pace.first**2))
            pace.note(pace.started + took, at)
        return took

    watch = Watch()
    earlier = Pace(started=5.0, first=0)
    read(earlier, 3000, 1.0)
    watch.learn(earlier)
    assert watch.usual is not None
    whole = first + 8192
    took = read(Pace(0.0, first), whole, slower)
    pace = Pace(started=50.0, first=first)
    checked = 0
    for until in range(first + 64, whole, 64):
        now = 50.0 + read(pace, until, slower)
        if now - 50.0 >= 0.1 * took:
            left = pace.left(whole - until, now, watch.usual)
            assert left == pytest.approx(took - (now - 50.0), rel=0.3)
            checked += 1
    assert checked > 50
    assert Watch().usual is None
    short = Pace(started=0.0, first=0)
    read(short, 64, 1.0)
    watch.learn(short)  # too little to say anything of others
    assert watch.usual == earlier.curve()


def test_words_and_documents_of_every_stage() -> None:
    queued = document(Progress(id=1, stage="queued", ahead=2, tokens=10, seconds_left=12.4))
    assert queued == {"stage": "queued", "ahead": 2, "tokens_done": 0, "tokens": 10, "seconds_left": 12.4}
    assert words(queued) == "queued: 2 ahead, about 12 s left"
    seen = document(Progress(id=1, stage="pictures", picture=1, pictures=3, part=0.5, tokens=10))
    assert words(seen) == "looking at picture 1 of 3"
    assert seen["part"] == 0.5
    assert words(document(Progress(id=1, stage="prompt", tokens_done=5, tokens=10, seconds_left=0.2))).endswith(
        "5 of 10 tokens, a moment left"
    )
    load = Load()
    assert load.seen("m", 0.0, 10.0) is None
    assert load.seen("m", 0.25, 12.0) == 6.0
    assert load.seen("n", 0.5, 20.0) == 0.0
    assert load.seen(None, None, 21.0) is None
    told = {"stage": "loading", "model": "a\nb", "part": 0.5, "seconds_left": 3.0}
    assert words(told) == "loading a b: 50 %, about 3 s left"
