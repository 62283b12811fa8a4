"""What the terminal commands do: chat, status, stop, progress."""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import mimetypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from host_api.protocol.decision import Identity
from host_api.protocol.identity import identify
from host_api.protocol.lock import FileLock, held
from host_api.protocol.record import Record, parse_record
from host_api.protocol.state_dir import Files, read_bytes
from sidecar.config import ConfigError, Settings
from sidecar.models.starter.source import Progress

_START = 60.0  # seconds a server may take to listen
_DRAIN = 30.0  # seconds a server may take to stop


@dataclass(frozen=True)
class Endpoint:
    """A server to talk to."""

    url: str
    token: str | None

    def client(self, timeout: float | None = None) -> httpx.Client:
        """An HTTP client for it."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=timeout, trust_env=False)


@contextlib.contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar on standard error, one a phase."""
    from tqdm import tqdm

    bar: Any = None
    phase = ""

    def progress(name: str, done: int, total: int) -> None:
        nonlocal bar, phase
        if name != phase:
            if bar is not None:
                bar.close()
            units = {"converting": {"unit": "tensor"}, "loading": {"unit": "%"}}
            unit: dict[str, Any] = units.get(name) or {"unit": "B", "unit_scale": True}
            bar = tqdm(total=total, desc=name, file=sys.stderr, initial=0, **unit)
            phase = name
        bar.update(done - bar.n)

    try:
        yield progress
    finally:
        if bar is not None:
            bar.close()


def running(state_dir: Path) -> Endpoint | None:
    """The server that publishes itself in ``state_dir``, holds its lock and answers as itself; or None."""
    record = published(state_dir)
    if record is None:
        return None
    endpoint = Endpoint(record.url, record.token)
    try:
        with endpoint.client(2.0) as client:
            health = client.get("/health").json()
    except (httpx.HTTPError, ValueError):
        return None
    return endpoint if health.get("instance_id") == record.instance_id else None


def published(state_dir: Path) -> Record | None:
    """The record of a living server in ``state_dir``, or None."""
    files = Files(state_dir)
    if not files.sidecar_lock.exists() or not held(files.sidecar_lock):
        return None
    return parse_record(read_bytes(files.record)).record


# --- chat -----------------------------------------------------------------------------------------------
def chat(args: argparse.Namespace, settings: Settings) -> int:
    """Ask the running server, or one started for this conversation alone."""
    pictures = [_data_url(path) for path in args.image]
    with contextlib.ExitStack() as stack:
        endpoint = running(settings.state_dir) or stack.enter_context(_own_server(settings))
        client = stack.enter_context(endpoint.client())
        history: list[dict[str, Any]] = [{"role": "system", "content": args.system}] if args.system else []
        for question in [args.question] if args.question is not None else _lines():
            content: Any = question
            if pictures:
                parts = [{"type": "image_url", "image_url": {"url": url}} for url in pictures]
                content, pictures = [*parts, {"type": "text", "text": question}], []
            history.append({"role": "user", "content": content})
            answer = _ask(client, args, settings, history)
            if answer is None:
                return 1
            history.append({"role": "assistant", "content": answer})
    return 0


def _lines() -> Iterator[str]:
    while True:
        if sys.stdin.isatty():
            sys.stderr.write("> ")
            sys.stderr.flush()
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()


def _data_url(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise ConfigError(f"--image {path}: can't be read ({exc.strerror})") from exc
    kind = mimetypes.guess_type(path.name)[0] or "image/png"
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _ask(
    client: httpx.Client, args: argparse.Namespace, settings: Settings, history: list[dict[str, Any]]
) -> str | None:
    """One answer, shown as it comes (a document at the end with --json); None after an error, which is shown."""
    body: dict[str, Any] = {"messages": history, "stream": True, "stream_options": {"include_usage": True}}
    body |= {"model": settings.model or None, "temperature": args.temperature, "max_tokens": args.max_tokens}
    text, usage, model = "", None, None
    try:
        with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            if answer.status_code != httpx.codes.OK:
                answer.read()
                _say(_message(answer.text))
                return None
            for chunk in events(answer.iter_lines()):
                if "error" in chunk:
                    _say(_message(json.dumps(chunk)))
                    return None
                usage, model = chunk.get("usage") or usage, chunk.get("model")
                for choice in chunk["choices"]:
                    piece = choice["delta"].get("content") or ""
                    text += piece
                    if not args.json:
                        sys.stdout.write(piece)
                        sys.stdout.flush()
    except httpx.HTTPError as exc:
        _say(f"the server went away ({type(exc).__name__}); what came so far is above")
        return None
    sys.stdout.write(json.dumps({"model": model, "content": text, "usage": usage}) + "\n" if args.json else "\n")
    return text


def events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """The documents of an event stream."""
    for line in lines:
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line.removeprefix("data: "))


def _message(text: str) -> str:
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return text[:500]


def _say(message: str) -> None:
    sys.stderr.write(f"mlx-sidecar: {message}\n")


@contextlib.contextmanager
def _own_server(settings: Settings) -> Iterator[Endpoint]:
    """A server of our own, with its state in a temporary folder, ended with the block."""
    program = [sys.executable] if getattr(sys, "frozen", False) else [sys.executable, "-m", "sidecar.entry"]
    with tempfile.TemporaryDirectory(prefix="mlx-sidecar-") as folder:
        command = [*program, "serve", "--port", "0", "--state-dir", folder, "--data-dir", str(settings.data_dir)]
        for path in settings.model_dir:
            command += ["--model-dir", str(path)]
        env = {k: v for k, v in os.environ.items() if k not in ("MLX_SIDECAR_MODEL", "MLX_SIDECAR_MANAGED")}
        with (Path(folder) / "output").open("wb") as sink:
            process = subprocess.Popen(command, stdout=sink, stderr=sink, stdin=subprocess.DEVNULL, env=env)
        try:
            yield _wait(process, Path(folder))
        finally:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(process: subprocess.Popen[bytes], folder: Path) -> Endpoint:
    end = time.monotonic() + _START
    while process.poll() is None and time.monotonic() < end:
        if (endpoint := running(folder)) is not None:
            return endpoint
        time.sleep(0.02)
    tail = (folder / "output").read_text("utf-8", "replace")[-1000:]
    raise ConfigError(f"the server did not start: {tail.strip()}")


# --- status and stop ------------------------------------------------------------------------------------
def status(state_dir: Path) -> dict[str, Any] | None:
    """The running server's address and health, or None."""
    endpoint = running(state_dir)
    if endpoint is None:
        return None
    with endpoint.client(5.0) as client:
        health: dict[str, Any] = client.get("/health").json()
    return {"url": endpoint.url, "token": endpoint.token, **health}


def stop(state_dir: Path, *, force: bool) -> tuple[bool, str]:
    """Stop the running server as the ownership protocol says; whether it stopped, and what to tell people.

    Refused while hosts use it, unless ``force``. Only a process proved to be the server is signalled.
    """
    files = Files(state_dir)
    if not files.sidecar_lock.exists():
        return False, "not running"
    with contextlib.ExitStack() as stack:
        launch, hosts = FileLock(files.launch_lock), FileLock(files.hosts_lock)
        stack.callback(launch.close)
        stack.callback(hosts.close)
        if not _patiently(launch.try_exclusive):
            return False, "a host is starting or stopping the server just now; try again"
        record = published(state_dir)
        if record is None:
            return False, "not running"
        if not _patiently(hosts.try_exclusive, 0.5) and not force:
            return False, "hosts use the server; let them go first, or stop it with --force"
        if identify(record.pid, record.start_token) is not Identity.MATCH:
            return False, f"process {record.pid} is not the server of {state_dir}; nothing was signalled"
        if running(state_dir) is None and not force:
            return False, f"the server (pid {record.pid}) does not answer; stop it with --force"
        os.kill(record.pid, signal.SIGTERM)
        if not _patiently(lambda: not held(files.sidecar_lock), _DRAIN):
            if identify(record.pid, record.start_token) is Identity.MATCH:
                os.kill(record.pid, signal.SIGKILL)
            _patiently(lambda: not held(files.sidecar_lock), 5.0)
        with contextlib.suppress(OSError):
            files.record.unlink(missing_ok=True)  # so that no host takes the stop for a crash
        return True, f"stopped (pid {record.pid})"


def _patiently(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
