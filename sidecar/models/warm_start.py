"""Which model to load at start: the one used last, unless loading it was the last thing that happened."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from sidecar.models.files import replace_text


class WarmStart:
    """A small file in the state directory. Losing it loses a warm start, no more."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "last-model.json"
        self._name = ""

    def begin(self) -> str | None:
        """The model to load now, or None. A start that dies loading it is not repeated with it."""
        try:
            document = json.loads(self._path.read_text("utf-8"))
            name, starting = document["model"], bool(document.get("starting"))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        if not isinstance(name, str) or not name:
            return None
        self._write(name, starting=not starting)
        return None if starting else name

    def survived(self, name: str) -> None:
        """The process outlived the load, whatever came of it."""
        if not self._name:
            self._write(name, starting=False)

    def used(self, name: str) -> None:
        """The model was loaded and used."""
        if name != self._name:
            self._write(name, starting=False)
            self._name = name

    def forget(self) -> None:
        """The user wants no model in memory."""
        self._name = ""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def _write(self, name: str, *, starting: bool) -> None:
        with contextlib.suppress(OSError):
            replace_text(self._path, json.dumps({"model": name, "starting": starting}))
