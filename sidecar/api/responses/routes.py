"""``/v1/responses``: ask, stream, ask in the background, ask again, delete."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Annotated, Any

from fastapi import Header, Request
from fastapi.responses import JSONResponse, Response

from sidecar.api import generation, routing
from sidecar.api.chat import as_wish, chat_job, conversation_of
from sidecar.api.replies import Asked, begin, respond, service_of
from sidecar.api.responses import translate
from sidecar.api.responses.form import ResponseForm, new_id, skeleton
from sidecar.api.responses.schemas import Item, ResponseRequest
from sidecar.api.responses.store import ResponseStore, Stored
from sidecar.api.schemas import ChatRequest, error_responses
from sidecar.api.service import Service
from sidecar.api.sse import EventStream
from sidecar.engine.messages import Generate, ModelInfo, Piece, Tier, Tokenize
from sidecar.errors import ApiError, bad_request, envelope

router = routing.router(prefix="/v1/responses", tags=["responses"])
log = logging.getLogger("sidecar.api")
Plan = Callable[[ModelInfo], Generate]
_ERRORS = error_responses(400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 503)


def store_of(request: Request) -> ResponseStore:
    """Return what the server keeps of responses."""
    store: ResponseStore = request.app.state.responses
    return store


@router.post(
    "",
    response_model=None,
    responses={200: {"description": "A response, or its events as server-sent events"}, **_ERRORS},
)
async def create(
    request: Request, body: ResponseRequest, x_request_priority: Annotated[str | None, Header()] = None
) -> Response:
    """Answer items of a conversation."""
    store, service = store_of(request), service_of(request)
    chat = translate.chat_of(body, _history(store, body.previous_response_id), store.item)
    chat.refuse_unsupported()
    tier, priority = generation.tier_of(x_request_priority, chat)
    response_id = new_id("resp")
    made: list[ResponseForm] = []

    def form(name: str) -> ResponseForm:
        if not made:
            made.append(ResponseForm(body, skeleton(body, name, response_id)))
        return made[0]

    def ended() -> None:
        if body.store is not False and made:
            store.put(Stored(made[0].document, translate.items_of(body), body.previous_response_id))

    plan = partial(_job, service, chat, tier, priority)
    if body.background:
        if body.store is False:
            raise bad_request("background needs store: the answer could not be fetched.", param="store")
        return await _background(request, body, tier, plan, response_id)
    asked = Asked(model=body.model, keep_alive=body.keep_alive, stream=bool(body.stream), tier=tier)
    return await respond(request, asked, plan, form, ended=ended)


def _job(service: Service, chat: ChatRequest, tier: Tier, priority: int, model: ModelInfo) -> Generate:
    return chat_job(service.settings, model, as_wish(chat, model), tier, priority)


def _history(store: ResponseStore, previous: str | None) -> list[Item]:
    if previous is None:
        return []
    found = store.history(previous)
    if found is None:
        raise ApiError(
            404,
            f"No response {previous!r} is kept here (the server may have restarted); send the conversation itself.",
            param="previous_response_id",
            code="previous_response_not_found",
        )
    return translate.items_from(found)


# --- in the background ------------------------------------------------------------------------------------
async def _background(request: Request, body: ResponseRequest, tier: Tier, plan: Plan, response_id: str) -> Response:
    """Begin a response that goes on without its client; answer with it as it stands, or with its events."""
    store, service = store_of(request), service_of(request)
    name = (await asyncio.to_thread(service.models.find, body.model)).name
    form = ResponseForm(body, skeleton(body, name, response_id))
    stored = Stored(form.document, translate.items_of(body), body.previous_response_id)
    store.put(stored)
    asked = Asked(model=body.model, keep_alive=body.keep_alive, tier=tier)
    task = asyncio.create_task(_run(service, store, asked, plan, form, stored))
    store.tasks[response_id] = task
    task.add_done_callback(lambda _: store.tasks.pop(response_id, None))
    if body.stream:
        return EventStream(_events(store, stored, -1), held=AsyncExitStack(), named=True)
    return JSONResponse(form.document)


async def _run(
    service: Service, store: ResponseStore, asked: Asked, plan: Plan, form: ResponseForm, stored: Stored
) -> None:
    async def told(events: list[dict[str, Any]]) -> None:
        stored.events += events
        async with store.changed:
            store.changed.notify_all()

    try:
        with service.active():
            async with AsyncExitStack() as stack:
                _, answers, source = await begin(stack, service, asked, plan)
                await told(form.opening(answers))
                async for piece in source:
                    if isinstance(piece, Piece):  # else it tells of a pause, which nobody watches here
                        await told(form.chunks(piece))
                last = form.closing(answers)
    except asyncio.CancelledError:
        form.document["status"] = "cancelled"
        last = []
    except ApiError as exc:
        last = form.failed(exc.body()["error"])
    except Exception as exc:
        log.exception("a response in the background ended by an error")
        last = form.failed(envelope(500, f"The server met an unexpected error ({type(exc).__name__}).")["error"])
    store.put(stored)
    await told(last)


async def _events(store: ResponseStore, stored: Stored, after: int) -> AsyncGenerator[dict[str, Any]]:
    """Yield a response's events with numbers above ``after``, as they come, to its end."""
    seen = 0
    while True:
        async with store.changed:
            while len(stored.events) <= seen and not stored.ended:
                await store.changed.wait()
        fresh, seen = stored.events[seen:], len(stored.events)
        for event in fresh:
            if event["sequence_number"] > after:
                yield event
        if stored.ended and seen == len(stored.events) and stored.id not in store.tasks:
            return


# --- what is kept -----------------------------------------------------------------------------------------
def _stored(request: Request, response_id: str) -> Stored:
    found = store_of(request).get(response_id)
    if found is None:
        raise ApiError(404, f"No response {response_id!r} is kept here.", code="response_not_found")
    return found


@router.get("/{response_id}", response_model=None, responses=error_responses(400, 401, 403, 404))
async def retrieve(
    request: Request, response_id: str, stream: bool = False, starting_after: int | None = None
) -> Response:
    """Return a kept response; with ``stream`` the events of one that was asked for in the background."""
    found = _stored(request, response_id)
    if stream:
        if not found.document["background"]:
            raise bad_request("stream: only responses in the background keep their events.", param="stream")
        events = _events(store_of(request), found, -1 if starting_after is None else starting_after)
        return EventStream(events, held=AsyncExitStack(), named=True)
    return JSONResponse(found.document)


@router.delete("/{response_id}", response_model=None, responses=error_responses(401, 403, 404))
async def delete(request: Request, response_id: str) -> dict[str, Any]:
    """Forget a response; one in the background is cancelled."""
    store = store_of(request)
    _stored(request, response_id)
    await _cancel(store, response_id)
    store.delete(response_id)
    return {"id": response_id, "object": "response", "deleted": True}


@router.post("/{response_id}/cancel", response_model=None, responses=error_responses(400, 401, 403, 404))
async def cancel(request: Request, response_id: str) -> Response:
    """End a response in the background; one that has ended stays as it is."""
    found = _stored(request, response_id)
    if not found.document["background"]:
        raise bad_request("Only responses in the background can be cancelled; close the connection of others.")
    await _cancel(store_of(request), response_id)
    return JSONResponse(found.document)


async def _cancel(store: ResponseStore, response_id: str) -> None:
    task = store.tasks.get(response_id)
    if task is not None:
        task.cancel()
        await asyncio.wait({task})


@router.get("/{response_id}/input_items", response_model=None, responses=error_responses(400, 401, 403, 404))
async def input_items(
    request: Request, response_id: str, limit: int = 20, order: str = "desc", after: str | None = None
) -> dict[str, Any]:
    """List what a kept response answered."""
    found = _stored(request, response_id)
    if not 1 <= limit <= 100:
        raise bad_request("limit: give 1 to 100.", param="limit")
    items = [{"id": f"{response_id}_{i}", **item} for i, item in enumerate(found.input)]
    if order != "asc":
        items.reverse()
    if after is not None:
        place = next((i for i, item in enumerate(items) if item["id"] == after), None)
        if place is None:
            raise bad_request(f"after: no item is called {after!r}.", param="after")
        items = items[place + 1 :]
    page = items[:limit]
    ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {"first_id": None, "last_id": None}
    return {"object": "list", "data": page, **ends, "has_more": len(items) > limit}


@router.post("/input_tokens", response_model=None, responses=_ERRORS)
async def input_tokens(request: Request, body: ResponseRequest) -> dict[str, Any]:
    """Count the tokens of what would be asked, without its images."""
    store, service = store_of(request), service_of(request)
    chat = translate.chat_of(body, _history(store, body.previous_response_id), store.item)
    async with service.models.use(chat.model) as (_, model):
        conversation = conversation_of(service.settings, model, as_wish(chat, model), pictures=False)
        answer = await service.engine.tokenize(Tokenize(id=0, path=model.path, conversation=conversation))
    return {"object": "response.input_tokens", "input_tokens": len(answer.tokens)}
