"""What an update must carry from one frozen folder to the next: the files whose content is new, by name and hash.

    python build/delta.py make OLD/mlx-sidecar NEW/mlx-sidecar update.tar.xz
    python build/delta.py apply OLD/mlx-sidecar update.tar.xz NEW/mlx-sidecar

A delta is a tar archive in xz that opens with ``delta.json``: the SHA-256 of the old folder's list of files, and
the list of the new one (as in the manifest, with modes). Each new content follows as ``parts/`` and its SHA-256.
Applying only reads the old folder: it makes a new one beside its place, compares every file with the list, and
renames it at the end, so that what was cut short leaves nothing that looks like a program. Signatures stand in the
files: a signed folder comes out signed.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent)]
from release import entries  # noqa: E402
from signing import ReleaseError  # noqa: E402

Files = dict[str, dict[str, Any]]
_SCHEMA = 1
_HEAD = "delta.json"


def listing(folder: Path) -> Files:
    """Return every file of a folder: size, SHA-256 and mode, or where a link leads. Raises ReleaseError without any."""
    if not folder.is_dir():
        raise ReleaseError(f"{folder} is no folder")
    found = entries(folder)
    if not found:
        raise ReleaseError(f"{folder} is empty: give the folder of a frozen program")
    for name, entry in found.items():
        if "link" not in entry:
            entry["mode"] = (folder / name).stat().st_mode & 0o777
    return found


def digest(files: Files) -> str:
    """Return the SHA-256 of a list of files, the same on every machine."""
    return hashlib.sha256(json.dumps(files, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def make(old: Path, new: Path, out: Path) -> dict[str, Any]:
    """Write the delta from ``old`` to ``new`` into ``out``; return its head with the size of the archive, bytes."""
    before, after = listing(old), listing(new)
    have = {entry["sha256"] for entry in before.values() if "sha256" in entry}
    parts = {e["sha256"]: name for name, e in sorted(after.items()) if "sha256" in e and e["sha256"] not in have}
    head = {"schema": _SCHEMA, "from": digest(before), "to": digest(after), "files": after}
    text = json.dumps(head, indent=1, sort_keys=True).encode()
    with tarfile.open(out, "w:xz", preset=6) as archive:
        archive.addfile(_info(_HEAD, len(text)), io.BytesIO(text))
        for sha, name in sorted(parts.items(), key=lambda part: part[1]):
            with (new / name).open("rb") as file:
                archive.addfile(_info(f"parts/{sha}", after[name]["size"]), file)
    return {**head, "parts": sorted(parts.values()), "size": out.stat().st_size}


def _info(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)  # its times and owners are zero: the same delta gives the same bytes
    info.size = size
    return info


def apply(old: Path, delta: Path, new: Path) -> None:
    """Make ``new`` of ``old`` and a delta. Raises ReleaseError, and makes nothing, where anything is wrong."""
    if new.exists():
        raise ReleaseError(f"{new} is there already: an update is made beside it and put in its place afterwards")
    before = listing(old)
    with tempfile.TemporaryDirectory(prefix=f".{new.name}-", dir=new.parent) as work, _opened(delta) as archive:
        head = _head(archive)
        if head["from"] != digest(before):
            raise ReleaseError(f"{delta} is for another version than {old}: take the whole program instead")
        parts = Path(work) / "parts"
        parts.mkdir()
        _unpack(archive, parts)
        made = Path(work) / "made"
        _put_together(head["files"], before, old, parts, made)
        if digest(listing(made)) != head["to"]:
            raise ReleaseError(f"what came of {delta} is not what it says: take the whole program instead")
        made.rename(new)


def _opened(delta: Path) -> tarfile.TarFile:
    try:
        return tarfile.open(delta, "r:xz")
    except (OSError, tarfile.TarError) as exc:
        raise ReleaseError(f"{delta} can't be read: {exc}") from exc


def _head(archive: tarfile.TarFile) -> dict[str, Any]:
    """Return the head of a delta, its names checked before they become paths."""
    try:
        file = archive.extractfile(_HEAD)
        head: dict[str, Any] = json.load(file) if file else {}
        files: Files = head["files"]
    except (KeyError, ValueError, OSError, EOFError, tarfile.TarError) as exc:
        raise ReleaseError(f"this is no delta: {exc}") from exc
    if head.get("schema") != _SCHEMA:
        raise ReleaseError(f"this delta has schema {head.get('schema')!r}, known is {_SCHEMA}")
    for name, entry in files.items():
        path = PurePosixPath(name)
        target = PurePosixPath(entry.get("link", "."))
        depth = len(path.parts) - 1
        for part in target.parts:  # a link leads nowhere outside the folder
            depth += -1 if part == ".." else 1
            if depth < 0:
                raise ReleaseError(f"{name} leads out of the folder")
        if path.is_absolute() or target.is_absolute() or ".." in path.parts or not path.parts:
            raise ReleaseError(f"{name} leads out of the folder")
    return head


def _unpack(archive: tarfile.TarFile, parts: Path) -> None:
    """Lay the parts of a delta into a folder, each compared with its name."""
    try:
        for member in archive:
            file = archive.extractfile(member) if member.isfile() and member.name != _HEAD else None
            if file is None:
                continue
            name = member.name.removeprefix("parts/")
            if len(name) != 64 or not name.isalnum():
                raise ReleaseError(f"{member.name} is no part")
            with (parts / name).open("wb") as out:
                shutil.copyfileobj(file, out)
            with (parts / name).open("rb") as made:
                if hashlib.file_digest(made, "sha256").hexdigest() != name:
                    raise ReleaseError(f"part {name} was changed on its way: fetch the delta again")
    except (OSError, EOFError, tarfile.TarError) as exc:
        raise ReleaseError(f"the delta is cut short: {exc}; fetch it again") from exc


def _put_together(files: Files, before: Files, old: Path, parts: Path, made: Path) -> None:
    """Lay out the new folder: files from the parts or from the old folder, links last."""
    have = {e["sha256"]: old / name for name, e in before.items() if "sha256" in e}
    made.mkdir()
    links = {name: e["link"] for name, e in files.items() if "link" in e}
    for name, entry in files.items():
        if name in links:
            continue
        source = parts / entry["sha256"] if (parts / entry["sha256"]).exists() else have.get(entry["sha256"])
        if source is None:
            raise ReleaseError(f"{name} is neither in the old folder nor in the delta")
        target = made / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        target.chmod(entry["mode"] & 0o777)
    for name, leads in links.items():
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).symlink_to(leads)


def main(argv: list[str] | None = None) -> int:
    """Make or apply a delta; 1 and the reason on standard error when that fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["make", "apply"], metavar="make|apply")
    parser.add_argument("old", type=Path, help="the folder that is there")
    parser.add_argument("one", type=Path, help="make: the new folder; apply: the delta")
    parser.add_argument("two", type=Path, help="make: the delta to write; apply: the folder to make")
    args = parser.parse_args(argv)
    try:
        if args.step == "apply":
            apply(args.old, args.one, args.two)
            return 0
        made = make(args.old, args.one, args.two)
    except ReleaseError as exc:
        sys.stderr.write(f"delta {args.step}: {exc}\n")
        return 1
    for name in made["parts"]:
        sys.stdout.write(f"{made['files'][name]['size'] / 1e6:8.2f} MB  {name}\n")
    sys.stdout.write(
        f"{args.two}: {made['size'] / 1e6:.1f} MB for {len(made['parts'])} of {len(made['files'])} files\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
