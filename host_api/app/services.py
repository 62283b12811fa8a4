"""What the endpoints share, made at start and closed at stop."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from host_api.app.chat.attached import Attachments
from host_api.app.chat.consent import Consents
from host_api.app.chat.mcp import Servers
from host_api.app.chat.runs import Runs
from host_api.app.chat.tools import Tool
from host_api.app.config import HostSettings
from host_api.app.data.chats import Sessions
from host_api.app.data.files import Files
from host_api.app.data.jobs import Jobs
from host_api.app.data.providers import Store
from host_api.app.documents.folders import Folders
from host_api.app.documents.index import Indexer
from host_api.app.documents.intake import Intake
from host_api.app.documents.vectors import Vectors
from host_api.app.documents.worker import Worker
from host_api.app.feed import Feed
from host_api.app.models.gateway import Gateway
from host_api.app.models.pulls import Pulls
from host_api.app.sidecar.reconciler import Reconciler


@dataclass
class Services:
    """One running host service."""

    settings: HostSettings
    files: Files
    attachments: Attachments
    store: Store
    reconciler: Reconciler
    gateway: Gateway
    sessions: Sessions
    runs: Runs
    tools: tuple[Tool, ...]
    jobs: Jobs
    vectors: Vectors
    indexer: Indexer
    worker: Worker
    intake: Intake
    folders: Folders
    pulls: Pulls
    mcp: Servers
    consents: Consents
    feed: Feed = field(init=False)
    started: float = field(default_factory=time.monotonic)


def services(request: Request) -> Services:
    """The services of the application that ``request`` came to."""
    found: Services = request.app.state.services
    return found


Host = Annotated[Services, Depends(services)]
