"""The vectors against the Python implementation, the schema, and the text of the protocol."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from host_api.protocol import trace
from host_api.protocol.decision import (
    Compat,
    HealthAnswer,
    Identity,
    LockState,
    Observation,
    decide,
)
from host_api.protocol.record import (
    Owner,
    Record,
    RecordState,
    encode_record,
    parse_record,
    satisfies,
)
from host_api.protocol.restarts import Backoff, Restarts

VECTORS = Path(__file__).parent / "protocol" / "vectors"


def load(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((VECTORS / f"{name}.json").read_text("utf-8"))
    return document


def record_of(document: dict[str, Any]) -> Record:
    owner = document["owner"] and Owner(
        **{k: document["owner"][k] for k in ("kind", "pid", "start_token", "namespace") if k in document["owner"]}
    )
    return Record(**document | {"owner": owner, "capabilities": tuple(document["capabilities"])})


NAMES = ("decide", "records", "backoff", "traces")


@pytest.mark.parametrize("name", NAMES)
def test_vectors_meet_the_schema(name: str) -> None:
    jsonschema.validate(load(name), load("schema"))


def test_vectors_are_those_of_the_protocol_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("generate", VECTORS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    crate = generate.FOLDERS[1]
    monkeypatch.setattr(generate, "FOLDERS", [tmp_path])
    generate.main()
    for name in NAMES:
        fresh = (tmp_path / f"{name}.json").read_bytes()
        assert fresh == (VECTORS / f"{name}.json").read_bytes()
        assert fresh == (crate / f"{name}.json").read_bytes(), "the crate's copy"


def test_decide_over_the_whole_table() -> None:
    vectors = load("decide")
    size = 2 * len(LockState) * len(RecordState) * len(Identity) * len(HealthAnswer) * len(Compat) * 2 * 2
    seen = set()
    for lock, record, answer, compat, overdue, identity, port_blocked, managed, decision in vectors["rows"]:
        observation = Observation(
            lock=LockState(lock),
            record=RecordState(record),
            identity=Identity(identity),
            answer=HealthAnswer(answer),
            compat=Compat(compat),
            overdue=overdue == "yes",
            port_blocked=port_blocked == "yes",
            managed=managed == "yes",
        )
        seen.add(observation)
        assert decide(observation) == decision, observation
    assert len(seen) == vectors["count"] == size


def test_records() -> None:
    vectors = load("records")
    done = 0
    for case in vectors["cases"]:
        data = bytes.fromhex(case["hex"]) if "hex" in case else case["text"]
        parsed = parse_record(data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data)
        assert parsed.state == case["state"], (case["name"], parsed)
        assert parsed.record == (record_of(case["record"]) if case["record"] else None), case["name"]
        if parsed.record is not None:
            assert parse_record(encode_record(parsed.record)).record == parsed.record
        done += 1
    assert done == vectors["count"]


def test_needs() -> None:
    vectors = load("records")
    plain = next(c["record"] for c in vectors["cases"] if c["state"] == "valid")
    for version, need, good in vectors["needs"]:
        assert satisfies(record_of(plain | {"version": version}), need, ()) is good, (version, need)
    assert len(vectors["needs"]) == vectors["needs_count"]
    assert satisfies(record_of(plain), "", ("vision",))
    assert not satisfies(record_of(plain), "", ("vision", "embedding"))


def test_backoff() -> None:
    vectors = load("backoff")
    policy = Backoff()
    for failures, jitter, seconds in vectors["delays"]:
        assert policy.delay(failures, jitter) == pytest.approx(seconds)
    for failures, last, now, jitter, seconds in vectors["waits"]:
        state = Restarts(failures=failures, last_failure=last)
        assert state.wait(now, policy, jitter) == pytest.approx(seconds)
    for before, start, now, after in vectors["crashes"]:
        assert Restarts(failures=before, last_start=start).crashed(now, policy).failures == after
    assert len(vectors["delays"]) + len(vectors["waits"]) + len(vectors["crashes"]) == vectors["count"]


def test_traces() -> None:
    vectors = load("traces")
    for case in vectors["cases"]:
        assert trace.run(case["schedule"])["text"] == case["text"], case["name"]
    assert len(vectors["cases"]) == vectors["count"] >= 20
