"""Compare the manifests of two frozen builds: what is in one alone, and what differs. Exits 1 when anything does.

A manifest that can't be read is said on standard error, with status 2.

python build/compare.py A/manifest.json B/manifest.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def differences(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Lines of what differs between two manifests."""
    out = [f"{key}: {a.get(key)!r} / {b.get(key)!r}" for key in ("version", "python", "platform") if a[key] != b[key]]
    for name in sorted(set(a["packages"]) | set(b["packages"])):
        if a["packages"].get(name) != b["packages"].get(name):
            out.append(f"package {name}: {a['packages'].get(name)} / {b['packages'].get(name)}")
    for name in sorted(set(a["files"]) | set(b["files"])):
        one, other = a["files"].get(name), b["files"].get(name)
        if one is None or other is None:
            out.append(f"only in the {'second' if one is None else 'first'}: {name}")
        elif one != other:
            out.append(f"differs: {name}")
    return out


def manifest(path: str) -> dict[str, Any]:
    """Return a manifest, by its file or its folder. Raises OSError or ValueError for what is none."""
    found: Any = json.loads((Path(path) / "manifest.json" if Path(path).is_dir() else Path(path)).read_text("utf-8"))
    if not isinstance(found, dict) or not {"version", "python", "platform", "packages", "files"} <= set(found):
        raise ValueError(f"{path} is no manifest of a frozen build")
    return found


def main(argv: list[str]) -> int:
    """Print the differences; 0 when there are none, 1 when there are some, 2 when there is nothing to compare."""
    if len(argv) != 2:
        sys.stderr.write("compare: give two manifests: python build/compare.py A/manifest.json B/manifest.json\n")
        return 2
    try:
        found = differences(*map(manifest, argv))
    except (OSError, ValueError) as exc:
        sys.stderr.write(f"compare: {exc}\n")
        return 2
    print("\n".join(found) or "the same")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
