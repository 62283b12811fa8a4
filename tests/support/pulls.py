"""Pull from the hub of ``fake_hub``."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from sidecar.models.downloads import Effort, Progress
from sidecar.models.downloads.hub import Endpoint
from sidecar.models.downloads.pull import pull
from tests.support.fake_hub import FakeHub

QUICK = Effort(stall=0.5, attempts=3, backoff=0.02, longest_wait=0.1)


def fetch(hub: FakeHub, cache: Path, *more: FakeHub, token: str | None = None, **options: Any) -> list[Progress]:
    """Pull from ``hub`` with ``more`` as mirrors; all that was reported."""
    told: list[Progress] = []
    ends = [Endpoint(hub.url, token), *(Endpoint(m.url) for m in more)]
    options = {"effort": QUICK, "endpoints": ends, **options}
    asyncio.run(pull(hub.hub_id, cache=cache, report=told.append, **options))
    return told
