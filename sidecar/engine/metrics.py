"""Prometheus metrics, by tier. Names follow vLLM's where there is one of the same meaning."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from sidecar.engine.messages import Tier

_FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_SLOW = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Meter:
    """Counters and histograms of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self._queue = Histogram(
            "mlx_sidecar_request_queue_time_seconds",
            "Arrival to admission",
            ["tier"],
            buckets=_SLOW,
            registry=r,
        )
        self._ttft = Histogram(
            "mlx_sidecar_time_to_first_token_seconds",
            "Arrival to first token",
            ["tier"],
            buckets=_SLOW,
            registry=r,
        )
        self._itl = Histogram(
            "mlx_sidecar_inter_token_latency_seconds", "Decode step", ["tier"], buckets=_FAST, registry=r
        )
        self._prompt = Counter("mlx_sidecar_prompt_tokens", "Prompt tokens", ["tier"], registry=r)
        self._generated = Counter("mlx_sidecar_generation_tokens", "Generated tokens", ["tier"], registry=r)
        self._guessed = Counter("mlx_sidecar_spec_decode_draft_tokens", "Tokens guessed", registry=r)
        self._right = Counter("mlx_sidecar_spec_decode_accepted_tokens", "Guesses that were right", registry=r)
        self._requests = Counter("mlx_sidecar_http_requests", "Requests", ["path", "status"], registry=r)
        self._cancelled = Counter("mlx_sidecar_requests_cancelled", "Requests whose client left", registry=r)
        self._prefix = Counter("mlx_sidecar_prefix_cache_queries", "Prefix cache look-ups", ["result"], registry=r)
        self._prefix_tokens = Counter("mlx_sidecar_prefix_cache_hit_tokens", "Prompt tokens not computed", registry=r)
        self.memory = Gauge("mlx_sidecar_mlx_memory_bytes", "MLX memory", ["kind"], registry=r)
        self.running = Gauge("mlx_sidecar_requests_running", "Rows decoding", ["tier"], registry=r)
        self.waiting = Gauge("mlx_sidecar_requests_waiting", "Requests queued", ["tier"], registry=r)

    def queued(self, tier: Tier, seconds: float) -> None:
        """A request left the queue."""
        self._queue.labels(tier.label).observe(seconds)

    def first_token(self, tier: Tier, seconds: float, prompt: int) -> None:
        """A request's first token came."""
        self._ttft.labels(tier.label).observe(seconds)
        self._prompt.labels(tier.label).inc(prompt)
        self._generated.labels(tier.label).inc()

    def step(self, tier: Tier, seconds: float, tokens: int) -> None:
        """A decode step gave ``tokens``."""
        self._itl.labels(tier.label).observe(seconds)
        self._generated.labels(tier.label).inc(tokens)

    def steps(self, tiers: Sequence[Tier], seconds: float) -> None:
        """A step gave a token to a row of each of ``tiers``."""
        for tier in Tier:
            if count := sum(each is tier for each in tiers):
                self.step(tier, seconds, count)

    def guessed(self, drafted: int, accepted: int) -> None:
        """Tokens guessed ahead in a step, and how many of them stood."""
        self._guessed.inc(drafted)
        self._right.inc(accepted)

    def cancelled(self) -> None:
        """A request was dropped because its client left."""
        self._cancelled.inc()

    def prefix(self, *, hit: bool, tokens: int) -> None:
        """A prefix look-up; ``tokens`` it saved."""
        self._prefix.labels("hit" if hit else "miss").inc()
        self._prefix_tokens.inc(tokens)

    def request(self, path: str, status: int) -> None:
        """An HTTP request ended."""
        self._requests.labels(path, str(status)).inc()

    def replay(self, name: str, args: Sequence[float]) -> None:
        """Do what a ``Recorder`` noted."""
        if name in ("queued", "first_token", "step"):
            tier, seconds, *rest = args
            call = getattr(self, name)
            call(Tier(int(tier)), seconds, *map(int, rest))
        elif name == "guessed":
            self.guessed(int(args[0]), int(args[1]))
        elif name == "prefix":
            self.prefix(hit=bool(args[0]), tokens=int(args[1]))
        elif name == "cancelled":
            self.cancelled()

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)


class Recorder(Meter):
    """Notes what it is told, for another process's ``Meter`` to ``replay``. Thread-safe."""

    def __init__(self) -> None:
        self._noted: deque[tuple[str, tuple[float, ...]]] = deque()

    def take(self) -> tuple[tuple[str, tuple[float, ...]], ...]:
        """Return what was noted since the last time."""
        out = []
        while self._noted:
            out.append(self._noted.popleft())
        return tuple(out)

    def queued(self, tier: Tier, seconds: float) -> None:
        """Note that a request left the queue."""
        self._noted.append(("queued", (int(tier), seconds)))

    def first_token(self, tier: Tier, seconds: float, prompt: int) -> None:
        """Note a request's first token."""
        self._noted.append(("first_token", (int(tier), seconds, prompt)))

    def step(self, tier: Tier, seconds: float, tokens: int) -> None:
        """Note a decode step."""
        self._noted.append(("step", (int(tier), seconds, tokens)))

    def guessed(self, drafted: int, accepted: int) -> None:
        """Note guesses."""
        self._noted.append(("guessed", (drafted, accepted)))

    def cancelled(self) -> None:
        """Note a cancelled request."""
        self._noted.append(("cancelled", ()))

    def prefix(self, *, hit: bool, tokens: int) -> None:
        """Note a prefix look-up."""
        self._noted.append(("prefix", (int(hit), tokens)))
