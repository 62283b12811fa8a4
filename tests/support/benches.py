"""The engine with a model in this process, and clients that collect what they are given."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from sidecar.backend import loader
from sidecar.config import Settings
from sidecar.engine.messages import Sampling, Tier
from sidecar.engine.metrics import Meter
from sidecar.engine.rows import Done, Event, Failed, GenerationRequest, Prompt, Started, Token
from sidecar.engine.thread import EngineThread
from sidecar.text import images
from sidecar.text.prompt import build_prompt


@dataclass
class Client:
    """Collects what a request gives."""

    request: GenerationRequest
    events: list[Event] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def take(self, events: Sequence[Event]) -> None:
        self.events.extend(events)
        if any(isinstance(e, (Done, Failed)) for e in events):
            self.ended.set()

    @property
    def tokens(self) -> list[int]:
        return [e.id for e in self.events if isinstance(e, Token)]

    @property
    def failure(self) -> Failed | None:
        return next((e for e in self.events if isinstance(e, Failed)), None)

    @property
    def cached(self) -> int:
        return next(e.cached_tokens for e in self.events if isinstance(e, Started))


class Bench:
    """An engine with one model loaded."""

    def __init__(self, path: Path, folder: Path, **settings: Any) -> None:
        self.settings = Settings(state_dir=folder, data_dir=folder, **{"prefix_disk_mb": 0, **settings})
        self.deaths: list[BaseException] = []
        self.meter = Meter()
        self.engine = EngineThread(self.settings, self.meter, on_death=self.deaths.append)
        self.path = path
        self.loaded: loader.LoadedModel = self.engine.load(path).result(120)
        self.core: Any = self.engine.models[path]

    def prompt(self, text: str, *pictures: Image.Image) -> Prompt:
        parts: Any = [{"type": "image"} for _ in pictures] + [{"type": "text", "text": text}]
        seen = [images.Picture(p, hashlib.sha256(p.tobytes()).hexdigest()) for p in pictures]
        return build_prompt(self.loaded, [{"role": "user", "content": parts if pictures else text}], seen)

    def send(
        self,
        prompt: Prompt | str,
        *,
        max_tokens: int = 16,
        tier: Tier = Tier.INTERACTIVE,
        constraint: Any = None,
        **sampling: Any,
    ) -> Client:
        if isinstance(prompt, str):
            prompt = self.prompt(prompt)
        request = GenerationRequest(
            prompt=prompt,
            sampling=Sampling(**{"temperature": 0.0, **sampling}),
            max_tokens=max_tokens,
            tier=tier,
            sink=lambda _: None,
            arrived=time.monotonic(),
            constraint=constraint,
        )
        client = Client(request)
        request.sink = client.take
        self.engine.submit(self.path, request)
        return client

    def ask(self, prompt: Prompt | str, **options: Any) -> Client:
        client = self.send(prompt, **options)
        assert client.ended.wait(120)
        return client

    def alone(self, prompts: Sequence[Prompt | str], **options: Any) -> list[list[int]]:
        """The tokens of each prompt asked by itself, with no kept prefix."""
        out = []
        for prompt in prompts:
            self.forget()
            out.append(self.ask(prompt, **options).tokens)
        self.forget()
        return out

    def forget(self) -> None:
        """Drop kept prefixes, on the engine's thread."""
        self.on_engine(self.core.prefixes.clear)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """The engine waits meanwhile: what is sent is there before any of it begins."""
        gate = threading.Event()

        def hold() -> None:
            gate.wait(30)

        self.engine._put(hold)
        try:
            yield
        finally:
            gate.set()

    def on_engine(self, work: Callable[[], Any]) -> Any:
        out: list[Any] = []
        done = threading.Event()

        def run() -> None:
            out.append(work())
            done.set()

        self.engine._put(run)
        assert done.wait(30)
        return out[0]


def noise(seed: int) -> Image.Image:
    return Image.effect_noise((96, 96), 30 + 20 * seed).convert("RGB")
