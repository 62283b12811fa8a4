"""The server's process from a terminal: where it is, how it does, its end. All of it through ``host_api``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from host_api import HostConfig, HostError, SidecarHost, StateDirError, current
from host_api import status as look


@dataclass(frozen=True)
class Endpoint:
    """A server to talk to."""

    url: str
    token: str | None

    def client(self, timeout: float | None = None) -> httpx.Client:
        """An HTTP client for it."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=timeout, trust_env=False)


def running(state_dir: Path) -> Endpoint | None:
    """Return the server that publishes itself in ``state_dir``, holds its lock and answers as itself; or None."""
    try:
        found = current(HostConfig(state_dir=state_dir))
    except (HostError, StateDirError):
        return None
    return Endpoint(found.url, found.token) if found is not None else None


def status(state_dir: Path) -> dict[str, Any] | None:
    """Return the running server's address and health, or None."""
    endpoint = running(state_dir)
    if endpoint is None:
        return None
    try:
        with endpoint.client(5.0) as client:
            health: dict[str, Any] = client.get("/health").json()
    except (httpx.HTTPError, ValueError):
        return None
    return {"url": endpoint.url, "token": endpoint.token, **health}


def stop(state_dir: Path, *, force: bool) -> tuple[bool, str]:
    """Stop the server as the ownership protocol says; return whether it stopped, and what to tell people."""
    config = HostConfig(state_dir=state_dir, kind="terminal")
    try:
        pid = look(config).pid
        stopped = SidecarHost(config, supervise=False).stop(force=force)
    except (HostError, StateDirError) as exc:
        return False, str(exc)
    return stopped, f"stopped (pid {pid})" if stopped else "not running"
