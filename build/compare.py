"""Compare the manifests of two frozen builds: what is in one alone, and what differs. Exits 1 when anything does.

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


def main(first: str, second: str) -> int:
    """Print the differences; 0 when there are none."""
    found = differences(*(json.loads(Path(p).read_text("utf-8")) for p in (first, second)))
    print("\n".join(found) or "the same")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
