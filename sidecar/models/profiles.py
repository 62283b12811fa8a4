"""Settings per model: ``profiles.toml`` in the data directory.

A table is named after a model (``["qwen3-vl-4b"]``: for every request to it) or after a model and a profile
(``["qwen3-vl-4b:careful"]``: for requests to that name; what the model's own table says holds there as well).

The file is read again when it changes. A line that can't be used is left out and told in words; a file that can't be
read at all leaves what was read before, since an editor may have saved half of it. Whatever is wrong, the server runs.
"""

from __future__ import annotations

import difflib
import logging
import math
import threading
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from host_api.loopback import durations

log = logging.getLogger("sidecar.server")

FILE = "profiles.toml"
SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh")
LARGEST_TEMPLATE = 1 << 20
"""Bytes of a template's file."""


def _number(least: float, most: float) -> Callable[[Any], str | None]:
    def check(value: Any) -> str | None:
        good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        return None if good and least <= value <= most else f"give a number from {least:g} to {most:g}"

    return check


def _whole(least: int, most: int = 1 << 30) -> Callable[[Any], str | None]:
    def check(value: Any) -> str | None:
        good = isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
        return None if good else f"give a whole number from {least}"

    return check


def _time(value: Any) -> str | None:
    try:
        durations.parse(value)
    except (ValueError, TypeError, AttributeError):
        return 'give seconds (90), a time such as "5m", 0 for no time or -1 for ever'
    return None


def _texts(value: Any) -> str | None:
    good = isinstance(value, str) or (isinstance(value, list) and len(value) <= 16)
    good = good and all(isinstance(one, str) for one in value)
    return None if good else "give a text, or a list of at most 16"


def _effort(value: Any) -> str | None:
    return None if value in EFFORTS else f"give one of {', '.join(EFFORTS)}"


def _name(value: Any) -> str | None:
    return None if isinstance(value, str) and value else "give the name of a file, in quotes"


KEYS: dict[str, tuple[Callable[[Any], str | None], str]] = {
    "temperature": (_number(0, 2), "as in a request"),
    "top_p": (_number(0, 1), "as in a request"),
    "top_k": (_whole(-1), "as in a request"),
    "min_p": (_number(0, 1), "as in a request"),
    "repetition_penalty": (_number(1e-6, 10), "as in a request"),
    "presence_penalty": (_number(-2, 2), "as in a request"),
    "frequency_penalty": (_number(-2, 2), "as in a request"),
    "max_tokens": (_whole(1), "tokens of an answer"),
    "stop": (_texts, "texts that end an answer"),
    "context": (_whole(16), "tokens of prompt plus answer"),
    "template": (_name, "a file with a chat template (Jinja), beside this one or with its whole path"),
    "image_side": (_whole(28, 16384), "longer side that pictures are scaled down to, pixels"),
    "max_images": (_whole(0, 10_000), "pictures in one request"),
    "reasoning_effort": (_effort, "how much a model that reasons shall think"),
    "thinking_budget": (_whole(0), "tokens of thought after which the model must answer"),
    "keep_alive": (_time, "how long the model stays in memory after a request"),
}
"""What a table may say: its check, which returns what to do about a wrong value, and what it is for."""


@dataclass(frozen=True)
class Book:
    """What a file says. ``tables``: by model or ``model:profile``; ``problems``: what of it can't be used, in words."""

    tables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    def names(self, model: str) -> list[str]:
        """Return the profiles of a model, without its name."""
        return [name[len(model) + 1 :] for name in self.tables if name.startswith(f"{model}:")]

    def of(self, model: str, profile: str | None = None) -> dict[str, Any]:
        """Return what holds for a model, or for a profile of it."""
        found = dict(self.tables.get(model, {}))
        return found | dict(self.tables.get(f"{model}:{profile}", {})) if profile is not None else found


def shown(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as clients may see them: of a template only that there is one."""
    return {k: (True if k == "template" else v) for k, v in settings.items() if k != "template_file"}


class Profiles:
    """One file's settings, as it stands now. From any thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._stamp: object = None
        self._book = Book()

    def book(self) -> Book:
        """Return what the file says now; what is wrong with it goes to the log, once."""
        with self._lock:
            stamp = _stamp(self.path, self._book)
            if stamp != self._stamp:
                self._book = read(self.path, before=self._book)
                self._stamp = _stamp(self.path, self._book)
                for problem in self._book.problems:
                    log.warning("%s", problem)
            return self._book


def _stamp(path: Path, book: Book) -> object:
    """Return what changes when the file does, or a template that it names."""
    files = [path, *(path.parent / t["template_file"] for t in book.tables.values() if "template_file" in t)]
    out = []
    for file in files:
        try:
            status = file.stat()
            out.append((str(file), status.st_mtime_ns, status.st_size, status.st_ino))
        except OSError:
            out.append((str(file), 0, 0, 0))
    return out


def read(path: Path, *, before: Book | None = None) -> Book:
    """Return what a file says. ``before``: what stays where it can't be read; a missing file says nothing."""
    try:
        document = tomllib.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError:
        return Book()
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as exc:
        kept = before.tables if before is not None else {}
        stays = "what it said before holds" if kept else "its profiles are left out"
        return Book(kept, (f"{path}: can't be read ({exc}); {stays}",))
    tables: dict[str, dict[str, Any]] = {}
    problems: list[str] = []
    for name, table in document.items():
        if not isinstance(table, dict):
            problems.append(f"{path}: {name}: stands outside of a table; begin one with the model's name: [starter]")
            continue
        if name.endswith(":") or name.startswith(":"):
            problems.append(f'{path}: ["{name}"]: write a model, or a model and a profile: ["starter:short"]')
            continue
        tables[name] = {}
        for key, value in table.items():
            problem = _wrong(key, value)
            if problem is None and key == "template":
                problem = _take_template(path.parent / value, value, tables[name])
            elif problem is None:
                tables[name][key] = value
            if problem is not None:
                problems.append(f'{path}: ["{name}"] {key}: {problem}; it is left out')
    return Book(tables, tuple(problems))


def _wrong(key: str, value: Any) -> str | None:
    """Return what is wrong with a line, in words."""
    entry = KEYS.get(key)
    if entry is not None:
        return entry[0](value)
    if isinstance(value, dict):
        return 'is no setting; the name of a model with a dot goes in quotes: ["qwen2.5-vl-3b"]'
    near = difflib.get_close_matches(key, KEYS, 1)
    return f"is no setting; did you mean {near[0]}?" if near else f"is no setting; there are {', '.join(KEYS)}"


def _take_template(file: Path, name: str, table: dict[str, Any]) -> str | None:
    try:
        if file.stat().st_size > LARGEST_TEMPLATE:
            return f"{name} is over {LARGEST_TEMPLATE >> 20} MiB"
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError, ValueError) as exc:
        table["template_file"] = str(file)
        return f"{name} can't be read ({exc})"
    table |= {"template": text, "template_file": str(file)}
    return None
