"""Write the vectors: ``python tests/host_api/protocol/vectors/generate.py``.

The decisions come from the table in docs/concepts/ownership-protocol.md itself, read as text; the records and delays
are written down here by hand. No implementation is imported.
"""

from __future__ import annotations

import itertools
import json
import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
# The Rust crate carries a copy: it is tested where it was unpacked, too.
sys.path.insert(0, str(HERE.parents[3]))
FOLDERS = [HERE, HERE.parents[3] / "src-tauri-snippets" / "mlx-sidecar-host" / "tests" / "vectors"]
SPEC = HERE.parents[3] / "docs" / "concepts" / "ownership-protocol.md"

AXES: dict[str, list[str]] = {
    "lock": ["free", "held"],
    "record": ["absent", "invalid", "unknown_schema", "valid"],
    "answer": ["echo", "draining", "failed", "other", "refused", "silent"],
    "compat": ["ok", "incompatible_alone", "incompatible_shared"],
    "overdue": ["no", "yes"],
    "identity": ["match", "mismatch", "gone", "unknown"],
    "port_blocked": ["no", "yes"],
    "managed": ["no", "yes"],
}
WORDS = {"alone": "incompatible_alone"}


def spec_rows() -> list[tuple[dict[str, set[str]], str]]:
    """The rows of the protocol's table: for each axis the values that fit, and the decision."""
    lines = SPEC.read_text("utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| lock | record | answer"))
    names = [cell.strip() for cell in lines[start].strip("|").split("|")]
    rows = []
    for line in itertools.takewhile(lambda text: text.startswith("|"), lines[start + 2 :]):
        cells = dict(zip(names, (cell.strip() for cell in line.strip("|").split("|")), strict=True))
        decision = cells.pop("decision")
        fits = {}
        for name, cell in cells.items():
            values = {WORDS.get(v.strip().lower(), v.strip().lower()) for v in cell.split(",")}
            # "other" is a value of the answer, but "any other value" of the identity.
            anything = cell in ("·", "any other") or (name == "identity" and cell == "other")
            fits[name] = set(AXES[name]) if anything else values
            assert fits[name] <= set(AXES[name]), (name, cell)
        rows.append((fits, decision))
    return rows


def decisions() -> dict[str, Any]:
    rows = spec_rows()
    table = []
    for values in itertools.product(*AXES.values()):
        point = dict(zip(AXES, values, strict=True))
        decision = next(d for fits, d in rows if all(point[name] in fits[name] for name in fits))
        table.append([*values, decision])
    return {"kind": "decide", "columns": [*AXES, "decision"], "count": len(table), "rows": table}


def base() -> dict[str, Any]:
    return {
        "schema": 1,
        "pid": 4711,
        "start_token": "linux:5e0a:123",
        "instance_id": "0123456789abcdef0123456789abcdef",
        "host": "127.0.0.1",
        "port": 60316,
        "version": "0.1.0",
        "token": "s3cret",
        "owner": {"kind": "python", "pid": 99, "start_token": "linux:5e0a:7"},
        "started_at": "2026-01-02T03:04:05Z",
        "managed": True,
        "capabilities": ["chat", "vision"],
    }


def record_file(change: dict[str, Any] | None = None, *, drop: str = "", first: str = "", end: str = "\n") -> str:
    document = {**base(), **(change or {})}
    document.pop(drop, None)
    return f"{first or '4711'}\n{json.dumps(document, ensure_ascii=False)}{end}"


def records() -> dict[str, Any]:
    cases: list[dict[str, Any]] = []

    def case(name: str, text: str | None, state: str, record: dict[str, Any] | None = None, **more: Any) -> None:
        cases.append({"name": name, "text": text, "state": state, "record": record, **more})

    whole = base()
    del whole["schema"]

    def valid(name: str, text: str, **change: Any) -> None:
        case(name, text, "valid", whole | change)

    case("no file", None, "absent")
    valid("plain", record_file())
    valid("no newline at the end", record_file(end=""))
    valid("unknown key", record_file({"colour": {"deep": [1, None]}}))
    valid("no token", record_file({"token": None}), token=None)
    valid("no owner", record_file({"owner": None}), owner=None)
    valid(
        "a kind of owner from the future",
        record_file({"owner": base()["owner"] | {"kind": "swift"}}),
        owner=base()["owner"] | {"kind": "swift"},
    )
    valid("unknown key in owner", record_file({"owner": base()["owner"] | {"name": "x"}}))
    valid("managed left out", record_file(drop="managed"), managed=True)
    valid("not managed", record_file({"managed": False}), managed=False)
    valid("capabilities left out", record_file(drop="capabilities"), capabilities=[])
    valid("IPv6", record_file({"host": "::1"}), host="::1")
    valid("text beyond ASCII", record_file({"version": "0.1.0-ü漢🦀"}), version="0.1.0-ü漢🦀")
    valid("highest PID", record_file({"pid": 2147483647}, first="2147483647"), pid=2147483647)
    valid("port 1", record_file({"port": 1}), port=1)
    valid("port 65535", record_file({"port": 65535}), port=65535)
    more = {"build": "0f" * 16, "program": "/opt/app/mlx-sidecar", "namespace": "pid:[4026531836]"}
    valid("1.1: build, program and namespace", record_file(more), **more)
    valid("1.1: not told", record_file(dict.fromkeys(more)))
    spaced = base()["owner"] | {"namespace": "pid:[1]"}
    valid("1.1: an owner in a namespace", record_file({"owner": spaced}), owner=spaced)
    valid("the last of two equal keys counts", record_file().replace('"port": 60316', '"port": 1, "port": 60316'))
    for schema in (0, 2, -1, 99, 9007199254740993):
        case(f"schema {schema}", record_file({"schema": schema}), "unknown_schema")
    case("schema 2 and nothing else", '1\n{"schema": 2}\n', "unknown_schema")
    case("schema 2, other PIDs", '1\n{"schema": 2, "pid": "x"}\n', "unknown_schema")

    def bad(name: str, text: str, **more: Any) -> None:
        case(name, text, "invalid", **more)

    bad("empty", "")
    bad("a newline", "\n")
    bad("only the PID", "4711\n")
    bad("PID without JSON", "4711")
    bad("only JSON", json.dumps(base()) + "\n")
    bad("three lines", record_file() + "x\n")
    bad("an empty third line", record_file() + "\n")
    bad("truncated", record_file()[:60])
    bad("truncated before the brace", record_file(end="")[:-1])
    bad("words", "hello\nworld\n")
    bad("zeros", "\0" * 64)
    bad("Windows newlines", record_file().replace("\n", "\r\n"))
    bad("byte order mark", "\ufeff" + record_file())
    bad("two PIDs", record_file(first="4712"))
    for first in ("04711", "+4711", "-4711", " 4711", "4711 ", "4711.0", "0", "٤٧١١", "99999999999"):
        bad(f"first line {first!r}", record_file(first=first))
    bad("a list", "4711\n[1, 2]\n")
    bad("null", "4711\nnull\n")
    bad("two objects", record_file(end="") + "{}\n")
    bad("NaN", record_file(end="").replace('"port": 60316', '"port": NaN') + "\n")
    bad("NaN in an unknown key", record_file(end="")[:-1] + ', "x": NaN}\n')
    bad("lone surrogate", record_file(end="")[:-1] + ', "x": "\\ud800"}\n')
    bad("control character", record_file({"version": "a"}).replace('"a"', '"a\tb"'))
    bad("single quotes", record_file().replace('"', "'"))
    bad("trailing comma", record_file(end="")[:-1] + ",}\n")
    bad("no schema", record_file(drop="schema"))
    bad("a number too large", record_file(end="")[:-1] + ', "x": 1e400}\n')
    bad("too deep", record_file(end="")[:-1] + ', "x": ' + "[" * 110 + "]" * 110 + "}\n")
    valid("deep enough", record_file(end="")[:-1] + ', "x": ' + "[" * 90 + "]" * 90 + "}\n")
    for name in more:
        bad(f"{name}: not text", record_file({name: 7}))
        bad(f"{name}: empty", record_file({name: ""}))
    for value in ("1", 1.0, True, None, [1]):
        bad(f"schema {value!r}", record_file({"schema": value}))
    for key in base():
        if key not in ("schema", "managed", "capabilities"):
            bad(f"no {key}", record_file(drop=key))
    for key in ("start_token", "host", "version", "started_at"):
        bad(f"empty {key}", record_file({key: ""}))
        bad(f"{key} a number", record_file({key: 5}))
        bad(f"{key} null", record_file({key: None}))
    for value in (0, -1, 2147483648, "4711", 4711.0, True, None):
        bad(f"pid {value!r}", record_file({"pid": value}))
    for value in (0, -1, 65536, 60316.0, "60316", True, None):
        bad(f"port {value!r}", record_file({"port": value}))
    for value in ("", "0123", "0123456789ABCDEF0123456789ABCDEF", "g" * 32, "0" * 33, 5, None):
        bad(f"instance_id {value!r}", record_file({"instance_id": value}))
    tokens: tuple[object, ...] = ("", 5, False, ["x"])
    for token in tokens:
        bad(f"token {token!r}", record_file({"token": token}))
    owners: tuple[object, ...] = (
        "me",
        5,
        [],
        {},
        {"kind": "python"},
        {"kind": "", "pid": 1, "start_token": "x"},
        {"kind": "python", "pid": 0, "start_token": "x"},
        {"kind": "python", "pid": 1, "start_token": ""},
    )
    for owner in owners:
        bad(f"owner {owner!r}", record_file({"owner": owner}))
    for value in ("yes", 1, None):
        bad(f"managed {value!r}", record_file({"managed": value}))
    lists: tuple[object, ...] = ("chat", [1], None, {})
    for capabilities in lists:
        bad(f"capabilities {capabilities!r}", record_file({"capabilities": capabilities}))
    bad("too long", record_file({"x": "y" * 65536}))
    cases.append(
        {
            "name": "not UTF-8",
            "hex": b'4711\n{"schema": 1, "x": "\xff"}\n'.hex(),
            "text": None,
            "state": "invalid",
            "record": None,
        }
    )
    needs = [
        # version, needed, good enough
        ["0.1.0", "", True],
        ["nonsense", "", True],
        ["0.1.0", "0.1.0", True],
        ["0.1", "0.1.0", True],
        ["0.1.0", "0.1", True],
        ["0.1.1", "0.1.0", True],
        ["0.1.0", "0.1.1", False],
        ["0.9.0", "0.10.0", False],
        ["0.10.0", "0.9.9", True],
        ["1.0", "0.99.99", True],
        ["0.99", "1", False],
        ["0.1.0rc1", "0.1.0", True],
        ["0.1.0+local", "0.1.0", True],
        ["v1.0", "0.1", False],
        ["1.0", "v1", False],
        ["nonsense", "0.1", False],
        ["", "0.1", False],
    ]
    return {"kind": "records", "count": len(cases), "cases": cases, "needs_count": len(needs), "needs": needs}


def backoffs() -> dict[str, Any]:
    plain = [0, 0, 1, 2, 4, 8, 16, 30, 30, 30]
    delays = [[n, 0.0, float(d)] for n, d in enumerate(plain)]
    delays += [[33, 0.0, 30.0], [1000000, 0.0, 30.0], [2, 0.5, 0.875], [4, 0.5, 3.5], [7, 0.8, 24.0], [1, 0.9, 0.0]]
    waits = [
        # failures, last failure, now, jitter, seconds to wait
        [0, 0.0, 1000.0, 0.0, 0.0],
        [1, 1000.0, 1000.0, 0.0, 0.0],
        [2, 1000.0, 1000.0, 0.0, 1.0],
        [4, 1000.0, 1001.0, 0.0, 3.0],
        [4, 1000.0, 1004.0, 0.0, 0.0],
        [4, 1000.0, 9999.0, 0.0, 0.0],
        # The clock was set back: one delay at most.
        [4, 1000.0, 10.0, 0.0, 4.0],
        [9, 1e12, 1000.0, 0.0, 30.0],
        [4, 1000.0, 1000.0, 0.5, 3.5],
    ]
    crashes = [
        # failures before, last start, now, failures after
        [0, 0.0, 1000.0, 1],
        [1, 990.0, 1000.0, 2],
        [5, 990.0, 1000.0, 6],
        [5, 940.1, 1000.0, 6],
        [5, 940.0, 1000.0, 1],
        [5, 100.0, 1000.0, 1],
        [5, 2000.0, 1000.0, 6],
    ]
    return {
        "kind": "backoff",
        "count": len(delays) + len(waits) + len(crashes),
        "delays": delays,
        "waits": waits,
        "crashes": crashes,
    }


def traces() -> dict[str, Any]:
    """The scenarios with the text of each step; the machine must do what the scenarios' author expected."""
    from host_api.protocol import trace
    from tests.host_api.protocol.vectors.scenarios import CASES

    cases = []
    for name, settings, looks in CASES:
        seen: dict[str, Any] = {}
        steps = []
        for now, change, _ in looks:
            seen = {} if change is None else seen | change
            steps.append([now, {"wall": now, **seen}])
        schedule = {**settings, "text": True, "steps": steps}
        text = trace.run(schedule)["text"]
        for (now, _, expected), line in zip(looks, text, strict=True):
            assert brief(line) == expected, f"{name}, t {now}: {brief(line)!r}, not {expected!r}"
        cases.append({"name": name, "schedule": schedule, "text": text})
    return {"kind": "traces", "count": len(cases), "cases": cases}


def brief(line: str) -> str:
    """The phase or the outcome of a step's text, and its actions in a word each (an event by its kind)."""
    state, *actions = re.split(r" (?=(?:save|clear|spawn|kill_child|terminate|kill|adopt|event),)", line)
    parts = state.split("|")
    words = [a.split(",")[1] if a.startswith("event,") else a.split(",")[0] for a in actions]
    head = " ".join(filter(None, parts[-2:])) if parts[-2] else parts[0]
    return " ".join([f"{head}:", *words])


def main() -> None:
    vectors = {"decide": decisions(), "records": records(), "backoff": backoffs(), "traces": traces()}
    for name, document in vectors.items():
        lists = {k: v for k, v in document.items() if isinstance(v, list)}
        parts = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in document.items() if k not in lists]
        for key, rows in lists.items():
            body = ",\n".join(json.dumps(row) for row in rows)
            parts.append(f"{json.dumps(key)}: [\n{body}\n]")
        for folder in FOLDERS:
            (folder / f"{name}.json").write_text("{" + ",\n".join(parts) + "}\n", "utf-8")


if __name__ == "__main__":
    main()
