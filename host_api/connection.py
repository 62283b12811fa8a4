"""What a host is told: where the sidecar is, how it stands, what happened to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from host_api.protocol.record import Record

if TYPE_CHECKING:
    import httpx


@dataclass(frozen=True, kw_only=True)
class Connection:
    """A running sidecar. ``how``: ``spawned`` by this host, or ``attached`` to."""

    url: str
    token: str | None = field(repr=False)
    pid: int
    instance_id: str
    how: str
    version: str
    _again: Callable[[], Connection] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, record: Record, how: str, again: Callable[[], Connection] | None = None) -> Connection:
        """Make the connection that ``record`` describes; ``again`` gives the one after a restart."""
        return cls(
            url=record.url,
            token=record.token,
            pid=record.pid,
            instance_id=record.instance_id,
            how=how,
            version=record.version,
            _again=again,
        )

    @property
    def api_url(self) -> str:
        """Where OpenAI clients send their requests: the root with ``/v1``."""
        return f"{self.url}/v1"

    @property
    def headers(self) -> dict[str, str]:
        """The authorization header."""
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    def client(self, **kwargs: Any) -> httpx.Client:
        """Make an httpx client that follows the sidecar through one restart between requests."""
        from host_api.client import client

        return client(self, self._again, **kwargs)

    def async_client(self, **kwargs: Any) -> httpx.AsyncClient:
        """Make an asynchronous httpx client, see ``client``."""
        from host_api.client import async_client

        return async_client(self, self._again, **kwargs)

    def to_json(self, *, token: bool = True) -> dict[str, Any]:
        """Return it as JSON, for programs that print it."""
        document = {name: getattr(self, name) for name in ("url", "pid", "instance_id", "how", "version")}
        return document | ({"token": self.token} if token else {})


@dataclass(frozen=True, kw_only=True)
class Status:
    """A look at a state directory. ``state``: stopped, starting, running, draining, failed, hung or foreign.

    ``build``: the running program's fingerprint; ``program``: its path; ``replaced``: whether another build lies there
    now. ``history``: the last five crashes, replacements and failed starts, each with its time (seconds since 1970) and
    why; ``failures``: how many there were in a row.
    """

    state: str
    pid: int | None = None
    url: str | None = None
    instance_id: str | None = None
    version: str | None = None
    managed: bool | None = None
    owner: dict[str, Any] | None = None
    health: dict[str, Any] | None = None
    state_dir: str = ""
    build: str | None = None
    program: str | None = None
    replaced: bool | None = None
    failures: int = 0
    history: list[list[Any]] = field(default_factory=list)
    token: str | None = field(default=None, repr=False)

    def to_json(self, *, token: bool = False) -> dict[str, Any]:
        """Return it as JSON; the bearer token only where it is asked for."""
        names = [one.name for one in fields(self) if one.name != "token"]
        return {name: getattr(self, name) for name in names} | ({"token": self.token} if token else {})


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened to the sidecar.

    ``kind``: ready, crashed, restarted, stopped, adopted or failed (``detail`` is then the error's message).
    """

    kind: str
    connection: Connection | None = None
    detail: str = ""
