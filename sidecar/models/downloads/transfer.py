"""Fetch one file: from where it stopped, with a look at the clock, and checked at the end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from host_api.protocol.lock import FileLock
from sidecar.models.downloads import Effort, HubFile, PullError, human
from sidecar.models.downloads.hub import Endpoint, Transient, refusal
from sidecar.models.downloads.meter import PullMeter
from sidecar.models.downloads.store import Store, digest_matches

_PROGRESS = 1 << 20  # bytes an attempt must bring to count as progress
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_POLL = 0.2


class _Bad(Exception):
    """What came is not the file the hub speaks of."""


@dataclass(eq=False, kw_only=True)
class Transfer:
    """Fetches files of one commit into a store. ``before``: bytes there of the other files."""

    client: httpx.AsyncClient
    endpoints: Sequence[Endpoint]
    hub_id: str
    commit: str
    store: Store
    effort: Effort
    meter: PullMeter
    before: int = 0
    _bad: dict[str, int] = field(default_factory=dict)

    async def fetch(self, file: HubFile) -> None:
        """Bring the file whole and checked into the store. Raises PullError."""
        if self.store.whole(file):
            return
        lock = FileLock(self.store.locks / f"{file.etag}.lock")  # the name the hub's own tools lock
        try:
            while not lock.try_exclusive():
                self.meter.say("waiting", file=file.path, message="another program fetches this file")
                await asyncio.sleep(_POLL)
            if not self.store.whole(file):
                await self._from_somewhere(file)
        finally:
            lock.close()

    async def _from_somewhere(self, file: HubFile) -> None:
        refused: PullError | None = None
        last = Transient("nothing was tried")
        for endpoint in self.endpoints:
            try:
                await self._from(endpoint, file)
                return
            except PullError as exc:
                if exc.code in ("damaged", "disk_full"):
                    raise
                refused = refused or exc
            except Transient as exc:
                last = exc
        if refused is not None:
            raise refused
        kept = human(self.store.have(file))
        raise PullError(
            f"{file.path} could not be fetched: {last}. {kept} of it are kept: pull again to go on.",
            code="busy" if last.busy else "unreachable",
            status=503,
        )

    async def _from(self, endpoint: Endpoint, file: HubFile) -> None:
        """Try one endpoint until it succeeds or brings nothing new for too long. Raises Transient, PullError."""
        idle = 0
        while True:
            had = self.store.have(file)
            try:
                await self._stream(endpoint, file)
                await self._check(file)
                return
            except _Bad as exc:
                self.store.partial(file).unlink(missing_ok=True)
                self._bad[file.etag] = self._bad.get(file.etag, 0) + 1
                if self._bad[file.etag] > 1:
                    raise PullError(
                        f"{file.path} came wrong twice ({exc}) and was thrown away. Something on the way changes it, "
                        "or the hub's copy is damaged; try later, or another mirror with --hub-mirror.",
                        code="damaged",
                    ) from exc
                self.meter.say("retrying", message=f"{exc}; fetching it again")
                if endpoint is not self.endpoints[-1]:
                    raise Transient(str(exc)) from exc
            except Transient as exc:
                gained = self.store.have(file) - had
                idle = 1 if gained >= min(_PROGRESS, file.size - had) else idle + 1
                if idle >= self.effort.attempts:
                    raise
                wait = self.effort.wait(idle, exc.wait)
                self.meter.paused()
                self.meter.say("retrying", rate=0.0, seconds_left=None, message=f"{exc}; again in {wait:.0f} s")
                await asyncio.sleep(wait)

    async def _stream(self, endpoint: Endpoint, file: HubFile) -> None:
        """Append what is missing to the partial file. Raises Transient, _Bad, PullError."""
        partial = self.store.partial(file)
        have = partial.stat().st_size if partial.exists() else 0
        if have > file.size:
            partial.unlink()
            have = 0
        self.meter.at(self.before + have, have)
        if have == file.size and partial.exists():
            return
        headers = endpoint.headers() | ({"Range": f"bytes={have}-"} if have else {})
        url = endpoint.file_url(self.hub_id, file.path, self.commit)
        try:
            async with self.client.stream("GET", url, headers=headers) as answer:
                if answer.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                    raise _Bad("the hub's file is shorter than it says")
                if answer.status_code >= 400:
                    raise refusal(self.hub_id, answer.status_code, answer.headers, endpoint)
                have = _start(answer, have, file.size)
                with _written(partial), partial.open("r+b" if have else "wb", buffering=0) as out:
                    out.truncate(have)
                    out.seek(have)
                    async for chunk in answer.aiter_raw():  # as it comes: what a buffer holds dies with us
                        have += len(chunk)
                        if have > file.size:
                            raise _Bad("the hub sends more than the file's size")
                        out.write(chunk)
                        self.meter.at(self.before + have, have)
        except httpx.ReadTimeout as exc:
            raise Transient(f"nothing came for {self.effort.stall:g} s") from exc
        except httpx.TooManyRedirects as exc:
            raise Transient(f"{endpoint.url} sends in circles") from exc
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise Transient(f"the connection broke ({type(exc).__name__})") from exc
        if have < file.size:
            raise Transient(f"the connection ended after {human(have)} of {human(file.size)}")

    async def _check(self, file: HubFile) -> None:
        """Compare the hash, then give the content its name. Raises _Bad, PullError."""
        partial = self.store.partial(file)
        self.meter.say("checking", file_completed=file.size)
        left = threading.Event()

        def work() -> bool:
            if not digest_matches(partial, file, lambda _: _unless(left)):
                return False
            with partial.open("rb") as data:
                os.fsync(data.fileno())
            partial.chmod(0o644)
            partial.replace(self.store.blob(file))
            return True

        with _written(partial):
            if not await _whole(asyncio.create_task(asyncio.to_thread(work)), left):
                raise _Bad("its hash is not the hub's")


class _Left(Exception):
    """Nobody waits for this any more."""


def _unless(left: threading.Event) -> None:
    if left.is_set():
        raise _Left


async def _whole(work: asyncio.Task[bool], left: threading.Event) -> bool:
    """Wait for work on another thread; who is cancelled leaves when that has ended, and not before.

    The lock goes with who leaves. A thread that went on would rename a file under the next pull, or bring one back
    into a folder that was deleted.
    """
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        left.set()
        while not work.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({work})
        work.exception()  # looked at
        raise


def _start(answer: httpx.Response, have: int, size: int) -> int:
    """The offset an answer begins at. Raises _Bad when it is of a file of another size."""
    if answer.status_code == httpx.codes.PARTIAL_CONTENT:
        match = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if match is None or int(match[1]) != have:
            raise _Bad("the hub sends another part than the one asked for")
        total = match[2]
    else:
        total, have = answer.headers.get("Content-Length", "*"), 0
    if total.isdigit() and int(total) != size:
        raise _Bad(f"the hub sends {int(total)} bytes and said {size}")
    return have


@contextlib.contextmanager
def _written(path: Path) -> Iterator[None]:
    """Errors of the disk as PullErrors."""
    try:
        yield
    except OSError as exc:
        full = exc.errno in (errno.ENOSPC, errno.EDQUOT)
        raise PullError(
            f"{path.parent}: can't be written ({exc.strerror}). "
            + ("Free some space and pull again; what came is kept." if full else "Choose another with --cache-dir."),
            code="disk_full" if full else "unusable",
            status=507 if full else 500,
        ) from exc
