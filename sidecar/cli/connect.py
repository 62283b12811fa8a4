"""``mlx-sidecar connect``: the configuration that points another program at this server, printed or written.

Written is only what can be written without understanding the rest of a file: a JSON document is read, joined and
written anew; a file of lines gets a marked block that a later call replaces. The file as it was is kept beside it. What
can't be read is left as it is, with the lines to add by hand.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidecar import config

NAME = "mlx-sidecar"
KEY = "MLX_SIDECAR_API_KEY"
_BEGIN, _END = f"# {NAME}: begin", f"# {NAME}: end"


class ConnectError(Exception):
    """A file that can't be written without harm; the message says what to do."""


@dataclass(frozen=True)
class Server:
    """Where the server is, what to ask it for, and the key it takes ("none" where it takes any)."""

    url: str
    model: str
    key: str = "none"
    context: int = 8192

    @property
    def api_url(self) -> str:
        """The address of the OpenAI API."""
        return f"{self.url}/v1"


@dataclass(frozen=True)
class Recipe:
    """How a program is pointed here: a JSON ``document`` or ``lines`` for ``path``, and what is left to do.

    ``whole``: the lines are all that the file may hold.
    """

    path: Path | None
    document: dict[str, Any] | None = None
    lines: str = ""
    note: str = ""
    whole: bool = False

    @property
    def text(self) -> str:
        """What to put into the file."""
        return self.lines if self.document is None else json.dumps(self.document, indent=2, ensure_ascii=False)


def _codex(s: Server) -> Recipe:
    # A profile is a file of its own: Codex 0.171 refuses to start with one that stands in config.toml.
    lines = (
        f'model_provider = "{NAME}"\nmodel = {json.dumps(s.model)}\nmodel_context_window = {s.context}\n\n'
        f"[model_providers.{NAME}]\n"
        f'name = "{NAME}"\nbase_url = {json.dumps(s.api_url)}\nenv_key = "{KEY}"\nwire_api = "responses"\n'
    )
    home = Path(os.environ.get("CODEX_HOME") or "~/.codex").expanduser()
    note = f"export {KEY}={s.key}; codex --profile {NAME}"
    return Recipe(home / f"{NAME}.config.toml", lines=lines, note=note, whole=True)


def _claude(s: Server) -> Recipe:
    env = {"ANTHROPIC_BASE_URL": s.url, "ANTHROPIC_AUTH_TOKEN": s.key, "ANTHROPIC_MODEL": s.model}
    env |= {f"ANTHROPIC_DEFAULT_{size}_MODEL": s.model for size in ("HAIKU", "SONNET", "OPUS")}
    env["CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC"] = "1"
    folder = Path(os.environ.get("CLAUDE_CONFIG_DIR") or "~/.claude").expanduser()
    return Recipe(folder / "settings.json", {"env": env}, note="claude")


def _opencode(s: Server) -> Recipe:
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": NAME,
        "options": {"baseURL": s.api_url, "apiKey": s.key},
        "models": {s.model: {"name": s.model, "limit": {"context": s.context, "output": s.context // 2}}},
    }
    document = {"$schema": "https://opencode.ai/config.json", "provider": {NAME: provider}}
    return Recipe(_config_home() / "opencode" / "opencode.json", document, note=f"opencode -m {NAME}/{s.model}")


def _zed(s: Server) -> Recipe:
    models = [{"name": s.model, "display_name": s.model, "max_tokens": s.context}]
    entry = {NAME: {"api_url": s.api_url, "available_models": models}}
    document = {"language_models": {"openai_compatible": entry}}
    note = f"In Zed's agent panel choose {NAME}, and give {s.key!r} as its key."
    return Recipe(_config_home() / "zed" / "settings.json", document, note=note)


def _continue(s: Server) -> Recipe:
    lines = (
        f"models:\n  - name: {NAME}\n    provider: openai\n    model: {json.dumps(s.model)}\n"
        f"    apiBase: {s.api_url}\n    apiKey: {json.dumps(s.key)}\n    roles: [chat, edit, apply]\n"
    )
    return Recipe(None, lines=lines, note="Add this to the models of ~/.continue/config.yaml.")


def _aider(s: Server) -> Recipe:
    lines = f"model: openai/{s.model}\nopenai-api-base: {s.api_url}\nopenai-api-key: {json.dumps(s.key)}\n"
    return Recipe(Path("~/.aider.conf.yml").expanduser(), lines=lines, note="aider")


def _env(s: Server) -> Recipe:
    lines = f"export OPENAI_BASE_URL={s.api_url}\nexport OPENAI_API_KEY={s.key}\n"
    lines += f"export ANTHROPIC_BASE_URL={s.url}\nexport ANTHROPIC_AUTH_TOKEN={s.key}\n"
    return Recipe(
        None, lines=lines, note=f"Programs with an SDK of OpenAI or Anthropic read these; ask for {s.model!r}."
    )


PROGRAMS: dict[str, Callable[[Server], Recipe]] = {
    "aider": _aider,
    "claude": _claude,
    "codex": _codex,
    "continue": _continue,
    "env": _env,
    "opencode": _opencode,
    "zed": _zed,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument("program", choices=PROGRAMS, help="the program")
    parser.add_argument("--model", default="starter", help="the model it asks for")
    parser.add_argument("--write", action="store_true", help="write its configuration; a copy of the old one is kept")
    config.add_arguments(parser, ("state_dir", "port"))


def write(recipe: Recipe) -> Path | None:
    """Write a recipe into its file; return the copy of what was there, if anything was. Raises ConnectError."""
    path = recipe.path
    if path is None:
        raise ConnectError(f"this one is not written: {recipe.note} The lines are:\n{recipe.text}")
    try:
        before = path.read_text("utf-8") if path.exists() else ""
        text = _joined(before, recipe.document) if recipe.document is not None else _with_block(before, recipe)
        path.parent.mkdir(parents=True, exist_ok=True)
        copy = None
        if before:
            copy = path.with_name(f"{path.name}.{time.strftime('%Y%m%d-%H%M%S')}.before-{NAME}")
            shutil.copy2(path, copy)
        spare = path.with_name(f".{path.name}.{os.getpid()}")
        descriptor = os.open(spare, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        if copy is not None:
            shutil.copymode(copy, spare)
        spare.replace(path.resolve() if path.is_symlink() else path)
        return copy
    except (OSError, ValueError) as exc:
        raise ConnectError(
            f"{path} can't be changed safely ({exc}); it is as it was. Add this by hand:\n{recipe.text}"
        ) from exc


def _joined(before: str, document: dict[str, Any]) -> str:
    there = json.loads(before) if before.strip() else {}
    if not isinstance(there, dict):
        raise ValueError("it holds no JSON object")
    return json.dumps(_merged(there, document), indent=2, ensure_ascii=False) + "\n"


def _merged(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    out = dict(a)
    for key, value in b.items():
        old = out.get(key)
        out[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return out


def _with_block(before: str, recipe: Recipe) -> str:
    block = f"{_BEGIN}\n{recipe.lines.rstrip()}\n{_END}\n"
    head, found, rest = before.partition(f"{_BEGIN}\n")
    tail = ""
    if found:
        _, end, tail = rest.partition(f"{_END}\n")
        if not end:
            raise ValueError(f"the line {_END!r} is missing")
    elif NAME in before:
        raise ValueError(f"it names {NAME} already")
    if recipe.whole and (head.strip() or tail.strip()):
        raise ValueError("it holds more than these lines")  # keys beside them would mean something else in their place
    if found:
        return head + block + tail
    return f"{before.rstrip()}\n\n{block}" if before.strip() else block


def _config_home() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser()
