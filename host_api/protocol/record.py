"""The record: the contents of ``sidecar.pid``, as pure functions over bytes (section 2 of the protocol).

Nothing here reads a clock, a file or a socket.
"""

from __future__ import annotations

import base64
import enum
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

PROTOCOL = "1.1"
SCHEMA = 1
OWNER_ENV = "MLX_SIDECAR_OWNER"
BUILD_ENV = "MLX_SIDECAR_BUILD"
MAX_RECORD = 64 * 1024  # bytes
MAX_DEPTH = 100  # levels of JSON: what all implementations can read
SINCE_1_1 = ("build", "program", "namespace")
CAPABILITIES = ("chat", "embedding", "structured_output", "tool_use", "vision")


class RecordState(enum.StrEnum):
    """What ``sidecar.pid`` holds."""

    ABSENT = "absent"
    INVALID = "invalid"
    UNKNOWN_SCHEMA = "unknown_schema"
    VALID = "valid"


@dataclass(frozen=True, kw_only=True)
class Owner:
    """Who launched the sidecar (``kind`` python, tauri or standalone). For people: no decision rests on it.

    ``namespace``: the PID namespace in which ``pid`` means it, where the platform has such; None when not told.
    """

    kind: str
    pid: int
    start_token: str
    namespace: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object in the record and in ``MLX_SIDECAR_OWNER``."""
        document: dict[str, Any] = {"kind": self.kind, "pid": self.pid, "start_token": self.start_token}
        return document | ({"namespace": self.namespace} if self.namespace else {})

    @classmethod
    def from_json(cls, value: object) -> Owner | None:
        """Return the owner in a parsed JSON value, or None when it isn't one."""
        if not isinstance(value, dict):
            return None
        kind: Any = value.get("kind")
        pid: Any = value.get("pid")
        token: Any = value.get("start_token")
        namespace: Any = value.get("namespace")
        if not (_text(kind) and _pid(pid) and _text(token) and (namespace is None or _text(namespace))):
            return None
        return cls(kind=kind, pid=pid, start_token=token, namespace=namespace)

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Owner | None:
        """The owner a launcher passed by environment, or None."""
        try:
            return cls.from_json(json.loads(env.get(OWNER_ENV, "null")))
        except (ValueError, RecursionError):
            return None


@dataclass(frozen=True, kw_only=True)
class Record:
    """The contents of ``sidecar.pid``. ``started_at`` is RFC 3339 in UTC, for people.

    Since 1.1, each None when it isn't told: ``build`` is the program's fingerprint (``protocol/build.py``), ``program``
    its path, ``namespace`` the PID namespace in which ``pid`` means it.
    """

    pid: int
    start_token: str
    instance_id: str
    host: str
    port: int
    version: str
    token: str | None
    owner: Owner | None
    started_at: str
    managed: bool = True
    capabilities: tuple[str, ...] = ()
    build: str | None = None
    program: str | None = None
    namespace: str | None = None

    def owned_by(self, owner: Owner) -> Record:
        """The same record with another owner."""
        return replace(self, owner=owner)

    @property
    def address(self) -> str:
        """The address clients connect to; a wildcard becomes loopback."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)

    @property
    def url(self) -> str:
        """Where clients reach the sidecar, without ``/v1``."""
        host = self.address
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


@dataclass(frozen=True)
class Parsed:
    """What parsing gave; ``record`` only when VALID, ``problem`` only when INVALID."""

    state: RecordState
    record: Record | None = None
    problem: str = ""


def encode_record(record: Record) -> bytes:
    """The bytes of ``sidecar.pid``: the PID on a line, one JSON object on the next."""
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "pid": record.pid,
        "start_token": record.start_token,
        "instance_id": record.instance_id,
        "host": record.host,
        "port": record.port,
        "version": record.version,
        "token": record.token,
        "owner": record.owner.to_json() if record.owner else None,
        "started_at": record.started_at,
        "managed": record.managed,
        "capabilities": list(record.capabilities),
    }
    document |= {name: value for name in SINCE_1_1 if (value := getattr(record, name)) is not None}
    return f"{record.pid}\n{json.dumps(document, ensure_ascii=False, separators=(',', ':'))}\n".encode()


def parse_record(data: bytes | None) -> Parsed:
    """The record in ``data`` (None: there is no file). Never raises."""
    if data is None:
        return Parsed(RecordState.ABSENT)
    try:
        return _parse(data)
    except (ValueError, RecursionError) as exc:
        return Parsed(RecordState.INVALID, problem=str(exc) or type(exc).__name__)


def _parse(data: bytes) -> Parsed:
    if len(data) > MAX_RECORD:
        raise ValueError("too long")
    lines = data.decode("utf-8").removesuffix("\n").split("\n")
    if len(lines) != 2 or not re.fullmatch(r"[1-9][0-9]{0,9}", lines[0], re.ASCII):
        raise ValueError("not a PID line and a JSON line")
    document = json.loads(lines[1], parse_constant=_no_constant, parse_float=_finite)
    if not isinstance(document, dict):
        raise ValueError("not a JSON object")
    if _depth(document) > MAX_DEPTH:
        raise ValueError("too deep")
    json.dumps(document, ensure_ascii=False).encode("utf-8")  # lone surrogates are not text
    schema = document.get("schema")
    if type(schema) is not int:
        raise ValueError("schema: not an integer")
    if schema != SCHEMA:
        return Parsed(RecordState.UNKNOWN_SCHEMA)
    record = _record(document)
    if record.pid != int(lines[0]):
        raise ValueError("the two PIDs differ")
    return Parsed(RecordState.VALID, record)


def _record(document: dict[str, Any]) -> Record:
    def need(name: str, good: bool) -> Any:
        if not good:
            raise ValueError(f"{name}: missing or wrong")
        return document[name]

    get = document.get
    owner = Owner.from_json(get("owner"))
    token, port = get("token"), get("port")
    capabilities = get("capabilities", [])
    managed = get("managed", True)
    return Record(
        pid=need("pid", _pid(get("pid"))),
        start_token=need("start_token", _text(get("start_token"))),
        instance_id=need("instance_id", isinstance(get("instance_id"), str) and _hex(document["instance_id"])),
        host=need("host", _text(get("host"))),
        port=need("port", type(port) is int and 1 <= port <= 65535),
        version=need("version", _text(get("version"))),
        token=need("token", "token" in document and (token is None or _text(token))),
        owner=owner if need("owner", "owner" in document and (get("owner") is None or owner is not None)) else None,
        started_at=need("started_at", _text(get("started_at"))),
        managed=managed if isinstance(managed, bool) else need("managed", False),
        capabilities=tuple(capabilities)
        if isinstance(capabilities, list) and all(isinstance(c, str) for c in capabilities)
        else need("capabilities", False),
        **{name: need(name, _text(document[name])) for name in SINCE_1_1 if document.get(name) is not None},
    )


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError("a number is too large")
    return value


def _depth(value: Any) -> int:
    """How many levels of lists and objects there are; stops counting soon after the limit."""
    level, deep = [value], 0
    while level and deep <= MAX_DEPTH:
        inner = [v for v in level if isinstance(v, dict | list)]
        level = [w for v in inner for w in (v.values() if isinstance(v, dict) else v)]
        deep += bool(inner)
    return deep


def _hex(value: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{32}", value) is not None


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _pid(value: Any) -> bool:
    return type(value) is int and 1 <= value <= 2**31 - 1


def version_tuple(text: str) -> tuple[int, ...] | None:
    """``0.12.3`` and ``0.12.3rc1`` as (0, 12, 3); None when it doesn't begin with numbers."""
    match = re.match(r"[0-9]{1,9}(\.[0-9]{1,9})*", text, re.ASCII)
    if match is None:
        return None
    numbers = [int(part) for part in match.group().split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def satisfies(record: Record, min_version: str, capabilities: tuple[str, ...]) -> bool:
    """Whether the record's sidecar is new enough (empty: any) and able enough."""
    if not set(capabilities) <= set(record.capabilities):
        return False
    if not min_version:
        return True
    have, need = version_tuple(record.version), version_tuple(min_version)
    return have is not None and need is not None and have >= need


def new_token() -> str:
    """A fresh bearer token, 256 bits."""
    return base64.urlsafe_b64encode(os.urandom(32)).decode("ascii").rstrip("=")


def new_instance_id() -> str:
    """A fresh instance id: 32 hex digits."""
    return os.urandom(16).hex()
