"""The terminal commands about models: models, pull, rm, import."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import httpx

from sidecar.cli.process import running
from sidecar.cli.screen import progress_bar
from sidecar.config import Settings
from sidecar.engine import machine
from sidecar.models import importing, profiles
from sidecar.models.downloads import Effort, Progress, PullError, human
from sidecar.models.downloads.pull import pull as fetch
from sidecar.models.downloads.store import pulled_elsewhere
from sidecar.models.registry import ModelNotFound, Registry, offers
from sidecar.models.registry import describe as describe_model


def _fail(message: str) -> int:
    sys.stderr.write(f"mlx-sidecar: {message}\n")
    return 1


def models(settings: Settings, *, recommend: bool, as_json: bool) -> int:
    """List what is here, or what suits this machine."""
    registry = Registry(settings)
    book = profiles.read(settings.data_dir / profiles.FILE)
    found = []
    for model in registry.available():
        own = describe_model(model) | {"path": str(model.path)}
        for name, profile in [(model.name, None), *((f"{model.name}:{p}", p) for p in book.names(model.name))]:
            found.append(own | {"id": name, "settings": profiles.shown(book.of(model.name, profile))})
    for problem in filter(None, (registry.problem, *book.problems)):
        sys.stderr.write(f"mlx-sidecar: {problem}\n")
    lines = [f"{m['id']:<40} {m.get('title', ''):<32} {m['path']}" for m in found]
    empty = "No models here yet. Begin with: mlx-sidecar starter install"
    if recommend:
        total = machine.memory().total
        found = offers(total, frozenset(m["id"] for m in found))
        lines = [f"For {human(total)} of memory (sizes are approximate):"]
        for m in found:
            mark = "*" if m["recommended"] else " " if m["fits"] else "-"
            state = "here" if m["installed"] else f"{m['size_gb']:g} GB"
            need = "" if m["fits"] else f" (from {m['min_memory_gb']:g} GB of memory)"
            lines.append(f"{mark} {m['alias']:<18} {state:<8} {m['license']:<11} {m['context']:>7} tokens  ")
            lines[-1] += f"{', '.join(m['capabilities'])}: {m['good_at']}{need}"
        lines.append("* suits this machine best; - needs more memory. Fetch one with: mlx-sidecar pull NAME")
    sys.stdout.write((json.dumps(found, ensure_ascii=False) if as_json else "\n".join(lines) or empty) + "\n")
    return 0


def take(path: Path, settings: Settings, *, name: str | None, link: bool, as_json: bool) -> int:
    """Import a model."""
    registry = Registry(settings)
    try:
        with progress_bar() as progress:
            target = importing.run(
                path, registry.imported, name=name, link=link, taken=frozenset(registry.entries()), progress=progress
            )
    except importing.ImportFailed as exc:
        return _fail(str(exc))
    document = {"id": target.name, "path": str(target)}
    sys.stdout.write((json.dumps(document) if as_json else f"{target.name} is here: {target}") + "\n")
    return 0


def pull(name: str, settings: Settings, *, as_json: bool) -> int:
    """Fetch a model with a bar on standard error; its folder (a document with ``as_json``) on standard output."""
    registry = Registry(settings)
    try:
        hub_id = registry.hub_id(name)
    except ModelNotFound as exc:
        return _fail(str(exc))
    effort = Effort(stall=settings.pull_stall, attempts=settings.pull_attempts)
    bar = Bar()
    try:
        path = asyncio.run(
            fetch(hub_id, cache=registry.cache, report=bar.show, mirrors=settings.hub_mirror, effort=effort)
        )
    except PullError as exc:
        bar.close()
        return _fail(str(exc))
    except KeyboardInterrupt:
        bar.close()
        sys.stderr.write("mlx-sidecar: stopped; what came is kept, run the same command to go on\n")
        return 130
    bar.close()
    sys.stdout.write((json.dumps({"model": hub_id, "path": str(path)}) if as_json else str(path)) + "\n")
    return 0


class Bar:
    """A pull's progress on standard error: one line that changes on a terminal, a few lines elsewhere."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._said = ""
        self._width = 0

    def show(self, progress: Progress) -> None:
        """Show it."""
        line = describe(progress)
        if self._live:
            sys.stderr.write("\r" + line.ljust(self._width))
            self._width = len(line)
        else:
            step = progress.completed * 10 // progress.total if progress.total else 0
            key = progress.message or f"{progress.status} {step}"
            if key == self._said or progress.status in ("failed", "cancelled"):
                return
            self._said = key
            sys.stderr.write(line + "\n")
        sys.stderr.flush()

    def close(self) -> None:
        """End the line."""
        if self._live and self._width:
            sys.stderr.write("\r" + " " * self._width + "\r")


def describe(p: Progress) -> str:
    """A pull's progress as one line of text."""
    if p.message:
        return f"{p.model}: {p.message}"
    if not p.total:
        return f"{p.model}: {p.status}"
    text = f"{p.model}: {p.completed * 100 // p.total:3d}% {human(p.completed)} of {human(p.total)}"
    if p.status == "downloading" and p.rate:
        text += f", {human(p.rate)}/s"
        if p.seconds_left is not None:
            minutes, seconds = divmod(round(p.seconds_left), 60)
            text += f", {minutes}:{seconds:02d} left"
    elif p.status != "downloading":
        text += f", {p.status}"
    return f"{text} ({p.file})" if p.file else text


def remove(name: str, settings: Settings, *, as_json: bool) -> int:
    """Delete a model, through the running server when there is one: it knows what is in use."""
    endpoint = running(settings.state_dir)
    document: dict[str, Any]
    if endpoint is not None:
        try:
            with endpoint.client(120.0) as client:
                answer = client.delete(f"/v1/models/{name}")
        except httpx.HTTPError as exc:
            return _fail(f"the server went away ({type(exc).__name__})")
        document = answer.json()
        if answer.status_code != httpx.codes.OK:
            return _fail(str(document["error"]["message"]))
    else:
        registry = Registry(settings)
        try:
            hub_id = registry.hub_id(name)
        except ModelNotFound:
            hub_id = ""
        if hub_id and pulled_elsewhere(registry.cache, hub_id):
            return _fail(f"{name} is being pulled; end that first")
        try:
            document = {"id": name, "object": "model", "deleted": True, "freed_bytes": registry.remove(name)}
        except ModelNotFound as exc:
            return _fail(str(exc))
        except OSError as exc:
            return _fail(f"{name} can't be deleted: {exc}")
    text = f"deleted {name} ({human(document['freed_bytes'])})"
    sys.stdout.write((json.dumps(document) if as_json else text) + "\n")
    return 0
