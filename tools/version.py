"""The version of the project: one source, and the files that must repeat it.

``python -m tools.version`` prints it; ``python -m tools.version 0.2.0`` writes another into every file. The source is
``sidecar/__init__.py``: the frozen program and the wheel read it there (pyproject.toml asks setuptools to).
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "sidecar" / "__init__.py"
NUMBER = r"(?P<number>\d+\.\d+\.\d+(?:-[0-9A-Za-z.-]+)?)"
SHAPE = re.compile(NUMBER)

# File → what stands around the number there, the first match of each pattern. Cargo.toml of the crates in the workspace
# say `version.workspace = true`. Lock files of npm repeat the version of their own package twice.
PLACES = {
    "sidecar/__init__.py": [rf'^__version__ = "{NUMBER}"'],
    "src-tauri-snippets/Cargo.toml": [rf'^version = "{NUMBER}"'],
    "src-tauri-snippets/tauri-plugin-mlx-sidecar/Cargo.toml": [rf'^version = "{NUMBER}"'],
    "examples/desktop-app/src-tauri/Cargo.toml": [rf'^version = "{NUMBER}"'],
    "examples/desktop-app/src-tauri/tauri.conf.json": [rf'^  "version": "{NUMBER}"'],
    "examples/tauri-minimal/src-tauri/Cargo.toml": [rf'^version = "{NUMBER}"'],
    "examples/tauri-minimal/src-tauri/tauri.conf.json": [rf'^  "version": "{NUMBER}"'],
    "src-tauri-snippets/tauri-plugin-mlx-sidecar/guest-js/package.json": [rf'^  "version": "{NUMBER}"'],
    "examples/desktop-app/package.json": [rf'^  "version": "{NUMBER}"'],
    "examples/desktop-app/package-lock.json": [rf'\A.*?\n  "version": "{NUMBER}"', rf'"": {{.*?"version": "{NUMBER}"'],
}


def numbers() -> dict[str, list[str]]:
    """Return the version that each file says, once for each place in it. Raises LookupError for a place not found."""
    found: dict[str, list[str]] = {}
    for name, patterns in PLACES.items():
        text = (ROOT / name).read_text("utf-8")
        for pattern in patterns:
            match = re.search(pattern, text, re.MULTILINE | re.DOTALL)
            if match is None:
                raise LookupError(f"{name}: no version at {pattern}")
            found.setdefault(name, []).append(match["number"])
    return found


def current() -> str:
    """Return the version of the source."""
    return numbers()["sidecar/__init__.py"][0]


def write(number: str) -> None:
    """Write ``number`` into every place. Raises ValueError for what is no semantic version."""
    if not SHAPE.fullmatch(number):
        raise ValueError(f"{number!r} is no version: give three numbers, such as 0.2.0, or 0.2.0-rc.1")
    for name, patterns in PLACES.items():
        path = ROOT / name
        text = path.read_text("utf-8")
        for pattern in patterns:
            match = re.search(pattern, text, re.MULTILINE | re.DOTALL)
            if match is None:
                raise LookupError(f"{name}: no version at {pattern}")
            text = text[: match.start("number")] + number + text[match.end("number") :]
        path.write_text(text, "utf-8")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        try:
            write(sys.argv[1])
        except ValueError as exc:
            sys.exit(str(exc))
    print(current())
