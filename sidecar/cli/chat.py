"""``mlx-sidecar chat``: a question, or a conversation, in a terminal."""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import mimetypes
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from sidecar.cli.process import Endpoint, running
from sidecar.config import ConfigError, Settings

_START = 60.0  # seconds a server may take to listen


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
