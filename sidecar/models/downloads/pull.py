"""Fetch one model, whole or not at all."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import httpx

from host_api.protocol.lock import FileLock
from host_api.protocol.state_dir import StateDirError
from sidecar.backend.folder import read_document, wants_code
from sidecar.models.downloads import Effort, Listing, Progress, PullError, Report
from sidecar.models.downloads import hub as hub_api
from sidecar.models.downloads.hub import Endpoint, Transient
from sidecar.models.downloads.meter import PullMeter
from sidecar.models.downloads.selection import check_disk, needed
from sidecar.models.downloads.store import Store
from sidecar.models.downloads.tls import tls
from sidecar.models.downloads.transfer import Transfer

_CONNECT = 15.0  # seconds
_POLL = 0.25
_NOTE = 1.0  # seconds between notes for other processes


def free_bytes(folder: Path) -> int:
    """Free bytes of the disk ``folder`` is on, or would be."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


async def pull(
    hub_id: str,
    *,
    cache: Path,
    report: Report,
    endpoints: Sequence[Endpoint] | None = None,
    mirrors: tuple[str, ...] = (),
    effort: Effort | None = None,
    clock: Callable[[], float] = time.monotonic,
    free: Callable[[Path], int] = free_bytes,
) -> Path:
    """The model's folder, fetched as far as it isn't there. Raises PullError.

    Cancelling keeps what came. A second process pulling the same model waits for the first and reports its progress.
    """
    store = Store(cache, hub_id)
    effort = effort or Effort()
    last_note = float("-inf")
    mine = False  # the lock

    def noted(progress: Progress) -> None:
        nonlocal last_note
        if mine and clock() - last_note >= _NOTE:
            last_note = clock()
            store.write_note(progress.document())
        report(progress)

    meter = PullMeter(hub_id, noted, clock)
    lock: FileLock | None = None
    try:
        lock = await _locked(store, meter, report)
        mine = True
        if endpoints is None:
            endpoints = await asyncio.to_thread(hub_api.endpoints, mirrors)
        listing = await _listing(hub_id, endpoints, effort, meter)
        path = await _fetch(listing, store, endpoints, effort, meter, free)
        meter.say("success", file=None, seconds_left=0.0)
        return path
    except asyncio.CancelledError:
        meter.say("cancelled", message="what came is kept: pull again to go on")
        raise
    except PullError as exc:
        meter.say("failed", message=str(exc))
        raise
    finally:
        if mine:
            store.write_note(None)
            store.tidy()
        if lock is not None:
            lock.close()


async def _locked(store: Store, meter: PullMeter, report: Report) -> FileLock:
    """Return the model's lock once no other process pulls it. Raises PullError."""
    lock: FileLock | None = None
    try:
        store.locks.mkdir(parents=True, exist_ok=True)  # the model's own folders may be deleted until the lock is ours
        lock = FileLock(store.lock)
        while not lock.try_exclusive():
            _tell_of_other(store, meter, report)
            await asyncio.sleep(_POLL)
        store.prepare()
    except (OSError, StateDirError) as exc:
        if lock is not None:
            lock.close()
        why = getattr(exc, "strerror", None) or exc
        raise PullError(
            f"{store.cache}: can't be used ({why}). Choose another folder with --cache-dir.",
            code="unusable",
            status=500,
        ) from exc
    except BaseException:
        if lock is not None:
            lock.close()
        raise
    return lock


def _tell_of_other(store: Store, meter: PullMeter, report: Report) -> None:
    note = store.read_note() or {}
    known = {k: note[k] for k in ("file", "file_completed", "file_total", "completed", "total") if k in note}
    meter.progress = replace(meter.progress, status="waiting", message="another process pulls this model", **known)
    report(meter.progress)


async def _listing(hub_id: str, endpoints: Sequence[Endpoint], effort: Effort, meter: PullMeter) -> Listing:
    """What to fetch, from the first endpoint that tells."""
    refused: PullError | None = None
    last = Transient("nothing was tried")
    for endpoint in endpoints:
        for attempt in range(1, effort.attempts + 1):
            meter.say("listing")
            try:
                found = await asyncio.to_thread(hub_api.listing, hub_id, endpoint)
                return replace(found, files=needed(found.files))
            except PullError as exc:
                if exc.code in ("unusable", "offline"):
                    raise
                refused = refused or exc
                break
            except Transient as exc:
                last = exc
                if attempt < effort.attempts:
                    wait = effort.wait(attempt, exc.wait)
                    meter.say("retrying", message=f"{exc}; again in {wait:.0f} s")
                    await asyncio.sleep(wait)
    if refused is not None:
        raise refused
    raise PullError(
        f"{hub_id} could not be looked up: {last}. Check the connection, or name a mirror with --hub-mirror.",
        code="busy" if last.busy else "unreachable",
        status=503,
    )


def _refuse_code(listing: Listing, store: Store) -> None:
    """Refuse a model that would have to run code of its own, before its weights are fetched. Raises PullError."""
    files = {f.path: store.blob(f) for f in listing.files}
    config, tokenizer = (
        read_document(files[name]) if name in files else {} for name in ("config.json", "tokenizer_config.json")
    )
    if why := wants_code(config, tokenizer, files):
        raise PullError(
            f"{listing.hub_id} can't be used here: {why}, and this program executes nothing of a model.",
            code="unusable",
            status=422,
        )


async def _fetch(
    listing: Listing,
    store: Store,
    endpoints: Sequence[Endpoint],
    effort: Effort,
    meter: PullMeter,
    free: Callable[[Path], int],
) -> Path:
    have = {f.path: store.have(f) for f in listing.files}
    total = listing.size
    check_disk(total - sum(have.values()), free(store.root), str(store.cache))
    meter.say("downloading", total=total, completed=sum(have.values()))
    timeout = httpx.Timeout(effort.stall, connect=min(_CONNECT, effort.stall))
    async with httpx.AsyncClient(timeout=timeout, follow_redirects=True, verify=tls()) as client:
        transfer = Transfer(
            client=client,
            endpoints=endpoints,
            hub_id=listing.hub_id,
            commit=listing.commit,
            store=store,
            effort=effort,
            meter=meter,
        )
        looked = False
        for file in listing.files:
            if file.path.endswith(".safetensors") and not looked:  # all else has been fetched
                _refuse_code(listing, store)
                looked = True
            transfer.before = sum(have.values()) - have[file.path]
            meter.say("downloading", file=file.path, file_total=file.size, file_completed=have[file.path])
            await transfer.fetch(file)
            have[file.path] = file.size
    meter.say("checking", file=None, completed=total)
    try:
        return store.publish(listing)
    except OSError as exc:
        raise PullError(f"{store.root}: can't be written ({exc.strerror}).", code="disk_full", status=507) from exc
