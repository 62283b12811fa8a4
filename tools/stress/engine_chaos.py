"""Kill the engine at random points of mixed answers and compare every answer with an undisturbed one.

Chats that are greedy, seeded, with a picture, with tools, bound by a schema, two choices at once with
log-probabilities, raw completions and embeddings run together, over and over, while the engine is killed, stopped for
longer than the watchdog allows, aborted, and has allocations fail. Each answer must be event by event what it is
undisturbed; none may be lost; at the end no engine is left. A kill comes once every answer has made progress since the
last: a request that two engines die of without any is refused, which is right and not tested here. Where an answer
makes none for long, the tool tells where everything stands.

``--model tiny`` takes a random model with pictures in place of the starter: an answer of it takes less than a second
on two cores, so that 200 kills fit into ten minutes. How long people wait after a death is the starter's to tell.

    python -m tools.stress.engine_chaos --kills 200 --model tiny
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
import json
import os
import random
import resource
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from tests.support.servers import Sidecar, data_folder, sidecar

WAYS = ("SIGKILL", "SIGKILL", "SIGABRT", "SIGSTOP", MEMORY := "no memory")
NEAR = 0.02  # of log-probabilities
STALL = 5.0  # seconds the watchdog allows
OWNER = 450 << 20


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The model that is asked. ``in_vain``: seconds for which an allocation is waited to fail.

    ``room``: bytes of address space that are left at most for that. A small model fits into what malloc has already:
    with nothing left the first new mapping fails, a thread's stack or a picture's pixels.
    """

    model: str = "starter"
    tokens: int = 48
    in_vain: float = 5.0
    room: int = 4 << 20

    def ask(self, text: str, **more: Any) -> dict[str, Any]:
        """Return the body of a greedy chat."""
        base: dict[str, Any] = {"model": self.model, "messages": [{"role": "user", "content": text}], "temperature": 0}
        return base | {"max_tokens": self.tokens} | more


STARTER = Subject()
TINY = Subject(model="tiny", tokens=96, in_vain=3.0, room=0)


def picture() -> list[dict[str, Any]]:
    """Return the content of a message with a picture of noise."""
    from PIL import Image

    file = io.BytesIO()
    Image.effect_noise((160, 120), 60).convert("RGB").save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    return [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "Describe this picture."}]


def large_picture(of: Subject) -> dict[str, Any]:
    """Return a chat with a picture of 12 megapixels, which needs 50 MB that nothing has lying about."""
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (4000, 3000), (200, 30, 90)).save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What colour?"}]
    return of.ask("", max_tokens=4, max_pixels=60_000) | {"messages": [{"role": "user", "content": content}]}


def cases(of: Subject) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return each answer's path and body by name."""
    chat, ask = "/v1/chat/completions", of.ask
    city: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
    city |= {"required": ["city", "days"], "additionalProperties": False}
    tool = {"type": "function", "function": {"name": "weather", "parameters": city}}
    form = {"type": "json_schema", "json_schema": {"name": "trip", "schema": city}}
    asked = {"angry": {"type": "bool"}, "kind": {"criteria": ["complaint", "praise", "a question"]}}
    return {
        "greedy": (chat, ask("Tell me a long story about a dragon.")),
        "seeded": (chat, ask("Write a poem about the sea.", temperature=1.0, seed=7, top_p=0.9)),
        "picture": (chat, ask("") | {"messages": [{"role": "user", "content": picture()}]}),
        "tools": (chat, ask("What is the weather in Paris?", tools=[tool], tool_choice="required")),
        "schema": (chat, ask("Plan a trip to Rome as JSON.", response_format=form)),
        "two": (chat, ask("Name colours.", n=2, temperature=0.8, seed=3, logprobs=True, top_logprobs=2)),
        "raw": ("/v1/completions", {"model": of.model, "prompt": ["Once upon", "The sea"], "max_tokens": of.tokens}),
        "decisions": ("/v1/decisions", {"model": of.model, "state": "The box was torn. " * 20, "questions": asked}),
        "vectors": ("/v1/embeddings", {"model": "minilm", "input": [f"text number {i} " * 20 for i in range(16)]}),
    }


def told(document: Any, ids: dict[str, str]) -> Any:
    """Return an event without what differs between any two requests."""
    if isinstance(document, dict):
        out = {}
        for key, value in document.items():
            if key in ("id", "created") and isinstance(value, str | int):
                if key == "id" and str(value).startswith("call_"):
                    out[key] = ids.setdefault(str(value), f"call {len(ids)}")
            else:
                out[key] = told(value, ids)
        return out
    if isinstance(document, list):
        return [told(one, ids) for one in document]
    return document


def same(a: Any, b: Any) -> bool:
    """Return whether two events are the same, their numbers but for rounding.

    A score depends in its last digits on how many tokens a pass had, which the clock decides also undisturbed.
    """
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) <= NEAR
    return bool(a == b)


@dataclass
class Answer:
    """One kind of answer, asked again and again."""

    name: str
    path: str
    body: dict[str, Any]
    expected: list[Any] = field(default_factory=list)
    events: int = 0  # since the last kill
    asked: int = 0
    last: float = 0.0
    wrong: list[str] = field(default_factory=list)

    def once(self, http: httpx.Client) -> list[Any]:
        """Ask once; the events in order."""
        ids: dict[str, str] = {}
        if self.path in ("/v1/embeddings", "/v1/decisions"):
            answer = http.post(self.path, json=self.body)
            answer.raise_for_status()
            self._event()
            return [told(answer.json(), ids)]
        out: list[Any] = []
        with http.stream("POST", self.path, json=self.body | {"stream": True, "seed": 3}) as answer:
            if answer.status_code != httpx.codes.OK:
                raise RuntimeError(f"{answer.status_code}: {answer.read()!r}")
            for line in answer.iter_lines():
                if line.startswith("data: {"):
                    out.append(told(json.loads(line[6:]), ids))
                    if "error" in out[-1]:
                        raise RuntimeError(out[-1]["error"]["message"])
                    self._event()
        # Answers of one request come in any order beside each other; each by itself is in order.
        return sorted(out, key=lambda e: e["choices"][0]["index"] if e.get("choices") else 99)

    def _event(self) -> None:
        self.events += 1
        self.last = time.monotonic()

    def loop(self, http: httpx.Client, stop: threading.Event) -> None:
        """Ask until told to stop."""
        while not stop.is_set():
            try:
                got = self.once(http)
            except Exception as exc:
                self.wrong.append(f"{self.name}: {type(exc).__name__}: {exc}"[:500])
                stop.set()
                return
            self.asked += 1
            if not same(got, self.expected):
                first = next(
                    (i for i, (a, b) in enumerate(zip(got, self.expected, strict=False)) if not same(a, b)), -1
                )
                pair = (got[first], self.expected[first]) if first >= 0 else (len(got), len(self.expected))
                self.wrong.append(f"{self.name}: event {first} is {pair[0]} and should be {pair[1]}"[:800])
                stop.set()


@dataclass
class Outcome:
    """What a run found. ``pauses``: seconds from each death to the first token after it."""

    kills: dict[str, int]
    answers: int
    pauses: list[float]
    wrong: list[str]
    left: list[int]


class Kills:
    """One run's kills. ``tell`` gets a line of each."""

    def __init__(
        self,
        running: Sidecar,
        answers: list[Answer],
        http: httpx.Client,
        *,
        patience: float,
        of: Subject,
        tell: Callable[[str], None],
    ) -> None:
        self.answers = answers
        self.stop = threading.Event()
        self.done: dict[str, int] = {}
        self.pauses: list[float] = []
        self.engines: set[int] = set()
        self._running = running
        self._http = http
        self._patience = patience
        self._of = of
        self._tell = tell
        self._large = Answer("large picture", "/v1/chat/completions", large_picture(of))
        self._large.expected = self._large.once(http)
        self._asking: list[threading.Thread] = []
        # Resident bytes that only an engine with a model has: this one has seen every kind of answer.
        self._owner = min(OWNER, psutil.Process(self._pid()).memory_info().rss - (48 << 20))

    def _pid(self) -> int | None:
        found: int | None = self._http.get("/health").json()["engine"]["pid"]
        return found

    def wait_for_progress_of_all(self) -> bool:
        """Wait until every answer went on since the last kill; return whether the run goes on."""
        end = time.monotonic() + self._patience
        while not self.stop.is_set() and not all(a.events for a in self.answers):
            if time.monotonic() > end:
                slow = [a.name for a in self.answers if not a.events]
                stands = where_everything_stands(self._running)
                self.answers[0].wrong.append(f"no progress of {slow} in {self._patience:g} s\n{stands}")
                self.stop.set()
            time.sleep(0.02)
        return not self.stop.is_set()

    def kill(self, way: str, rng: random.Random) -> None:
        """Harm the engine, see it end, and time how long until an answer goes on."""
        pid = self._pid()
        if pid is None:
            return
        self.engines.add(pid)
        harm(pid, way, rng, self._of.room)
        if way == MEMORY:
            self._ask_for_much()
        if way == MEMORY and not self._died_within(pid, self._of.in_vain):  # it needed no more than it had
            spare(pid)
            way = "SIGKILL"
            harm(pid, way, rng, self._of.room)
        if way in ("SIGSTOP", MEMORY):
            self._died_within(pid, self._patience)
        died = time.monotonic()
        self.done[way] = self.done.get(way, 0) + 1
        time.sleep(0.05)
        for answer in self.answers:
            answer.events = 0
        while not any(a.events for a in self.answers) and not self.stop.is_set():
            if time.monotonic() > died + self._patience:
                break
            time.sleep(0.005)
            self._look_for_a_second_owner()
        self.pauses.append(time.monotonic() - died)
        first = next((a.name for a in self.answers if a.events), "nothing")
        self._tell(f"{len(self.pauses)}: {way}, {first} went on after {self.pauses[-1]:.2f} s")

    def _ask_for_much(self) -> None:
        """Ask, beside all else, for what needs memory anew; that answer is compared as well."""

        def ask() -> None:
            try:
                if not same(got := self._large.once(self._http), self._large.expected):
                    self.answers[0].wrong.append(f"large picture: {got} should be {self._large.expected}"[:800])
            except Exception as exc:
                self.answers[0].wrong.append(f"large picture: {type(exc).__name__}: {exc}"[:500])
            if self.answers[0].wrong:
                self.stop.set()

        self._asking.append(threading.Thread(target=ask, daemon=True))
        self._asking[-1].start()

    def finish(self, patience: float) -> None:
        """Wait for what was asked beside the answers."""
        for thread in self._asking:
            thread.join(patience)

    def _died_within(self, pid: int, seconds: float) -> bool:
        """Wait until the server has noticed the end of an engine; return whether it came in time."""
        end = time.monotonic() + seconds
        while self._pid() == pid:
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
        return True

    def _look_for_a_second_owner(self) -> None:
        """Note where two engines have models in memory: a spare has none."""
        owners = []
        for child in psutil.Process(self._running.process.pid).children():
            with contextlib.suppress(psutil.Error):
                if child.memory_info().rss > self._owner:
                    owners.append(child.pid)
        if len(owners) > 1:
            self.answers[0].wrong.append(f"two engines have models: {owners}")
            self.stop.set()


def run(
    running: Sidecar,
    *,
    kills: int,
    seed: int,
    of: Subject = STARTER,
    patience: float = 90.0,
    ways: Sequence[str] = WAYS,
    tell: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Kill the engine of a running server ``kills`` times. An interrupt ends it; what was found by then is told."""
    rng = random.Random(seed)
    answers = [Answer(name, path, body) for name, (path, body) in cases(of).items()]
    if not hasattr(resource, "prlimit"):
        ways = [way for way in ways if way != MEMORY]
    with httpx.Client(base_url=running.url, timeout=300, limits=httpx.Limits(max_connections=20)) as http:
        for answer in answers:
            answer.expected = answer.once(http)
        work = Kills(running, answers, http, patience=patience, of=of, tell=tell)
        threads = [threading.Thread(target=a.loop, args=(http, work.stop), daemon=True) for a in answers]
        for thread in threads:
            thread.start()
        with contextlib.suppress(KeyboardInterrupt):
            while len(work.pauses) < kills and work.wait_for_progress_of_all():
                time.sleep(rng.uniform(0, 0.7))
                work.kill(rng.choice(ways), rng)
        work.stop.set()
        for thread in threads:
            thread.join(patience)
        work.finish(patience)
    left = [pid for pid in work.engines if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]
    now = httpx.get(f"{running.url}/health", timeout=30).json()["engine"]["pid"]
    wrong = [one for a in answers for one in a.wrong]
    return Outcome(work.done, sum(a.asked for a in answers), work.pauses, wrong, [pid for pid in left if pid != now])


def harm(pid: int, way: str, rng: random.Random, room: int = STARTER.room) -> None:
    """Kill, stop or abort a process, or bound its address space so that an allocation fails soon (Linux)."""
    if way == MEMORY:
        size = psutil.Process(pid).memory_info().vms + rng.randrange(room + 1)
        resource.prlimit(pid, resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))
    else:
        os.kill(pid, getattr(signal, way))


def spare(pid: int) -> None:
    """Take the bound off again."""
    with contextlib.suppress(OSError):
        resource.prlimit(pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def where_everything_stands(running: Sidecar) -> str:
    """Return /health, the listener's tasks and requests in flight, and the stacks of the engine's threads."""
    health = httpx.get(f"{running.url}/health", timeout=30).json()
    for pid in (running.process.pid, health["engine"]["pid"]):
        if pid is not None:
            os.kill(pid, signal.SIGUSR1)
    time.sleep(2)
    stands = running.logs().rpartition("where everything stands")[2]
    return f"{json.dumps(health)}\n{stands[:6000]}\n{running.output.read_text()[-12_000:]}"


def _interrupted(*_: object) -> None:
    """End the run once: ``timeout`` sends its signal twice."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--model", choices=["starter", "tiny"], default="starter")
    parser.add_argument("--stall", type=float, default=STALL, help="seconds the watchdog allows (5)")
    parser.add_argument("--patience", type=float, default=90.0, help="seconds an answer may make no progress for (90)")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupted)
    data = data_folder()
    with (
        tempfile.TemporaryDirectory(prefix="engine-chaos-") as folder,
        server(Path(folder), data, args.stall, tiny=args.model == "tiny") as running,
    ):
        begun = time.monotonic()
        of = TINY if args.model == "tiny" else STARTER
        tell = partial(print, flush=True)
        found = run(running, kills=args.kills, seed=args.seed, of=of, patience=args.patience, tell=tell)
        health = httpx.get(f"{running.url}/health", timeout=30).json()
    print(f"seed {args.seed}: {found.kills} in {time.monotonic() - begun:.0f} s, {found.answers} answers compared")
    if found.pauses:
        late = sorted(found.pauses)
        print(f"death to the next token: median {statistics.median(late):.2f} s, worst {late[-1]:.2f} s")
    print(f"deaths told by /health: {health['engine']['deaths']}; engines left over: {found.left}")
    for line in found.wrong:
        print(line)
    return 1 if found.wrong or found.left else 0


def server(folder: Path, data: Path, stall: float = STALL, *, tiny: bool = False) -> Any:
    """Return a server for this: no kept prefixes, so that usage is the same each time, and an impatient watchdog."""
    from sidecar.models.starter import embedding
    from tests.support.models import qwen3_vl

    models = folder / "models"
    models.mkdir()
    (models / "minilm").symlink_to(embedding.folder(data), target_is_directory=True)
    if tiny:
        qwen3_vl(models / TINY.model)
        data = folder / "data"
        # What a model can do is looked at when it is loaded first, which takes longer than the watchdog will allow.
        with sidecar(folder / "first", "--model-dir", str(models), data_dir=data) as first, first.client() as http:
            http.post(f"/v1/models/{TINY.model}/load").raise_for_status()
    flags = ("--prefix-cache-mb", "0", "--stall-timeout", str(stall), "--model-dir", str(models))
    return sidecar(folder / "server", *flags, data_dir=data)


if __name__ == "__main__":
    sys.exit(main())
