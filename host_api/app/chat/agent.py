"""A chat turn as a stream of the AI SDK's UI messages, through PydanticAI's adapter."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

import httpx
from genai_prices.data_snapshot import DataSnapshot, set_custom_snapshot
from openai import AsyncOpenAI
from pydantic import TypeAdapter
from pydantic_ai import Agent
from pydantic_ai.exceptions import ModelAPIError, ModelHTTPError, UsageLimitExceeded
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings
from pydantic_ai.ui.vercel_ai import VercelAIAdapter, VercelAIEventStream
from pydantic_ai.ui.vercel_ai.request_types import RequestData, SubmitMessage, UIMessage
from pydantic_ai.ui.vercel_ai.response_types import BaseChunk, DoneChunk, ErrorChunk
from pydantic_ai.usage import UsageLimits

from host_api.app import outgoing
from host_api.app.chat import attached
from host_api.app.data.chats import FILE_URL, Begun
from host_api.app.data.files import Files
from host_api.app.data.tables import ChatTurn
from host_api.app.errors import ApiError
from host_api.app.models.gateway import Target, reason

log = logging.getLogger("host.chat")

SDK_VERSION: Final = 7
MAX_MODEL_REQUESTS = 8
INSTRUCTIONS = "You are a helpful assistant on the user's own computer. Answer briefly and truthfully."
_REQUEST: TypeAdapter[RequestData] = TypeAdapter(RequestData)
_MESSAGES: TypeAdapter[list[UIMessage]] = TypeAdapter(list[UIMessage])

# PydanticAI loads the prices of a thousand models with its first model: 0.15 s of the event loop's time (0.6 without
# byte code) in which nothing else is answered. Nothing here asks for prices.
set_custom_snapshot(DataSnapshot(providers=[], from_auto_update=False))


@dataclass(frozen=True)
class Turn:
    """What answers, and how. ``failed`` hears that the model's server gave an error."""

    target: Target
    tools: Sequence[Any]
    timeout: float
    settings: ModelSettings
    failed: Callable[[], None]
    sources: Sequence[dict[str, Any]] | None = None


@dataclass(frozen=True)
class Asked:
    """What a client asks: ``message`` is the question (None: an answer anew), ``parent_id`` the turn it follows."""

    session_id: str
    message: dict[str, Any] | None
    parent_id: str | None
    branch: bool
    extra: dict[str, Any]


def parse(body: bytes) -> Asked:
    """Read the request ``useChat`` sends: of its messages the last is taken, the one before it names the parent.

    Clients that send the last message alone name the parent as ``parent_id``. Raises pydantic's ValidationError or
    ApiError.
    """
    request = _REQUEST.validate_json(body)
    extra = dict(request.model_extra or {})
    if not request.messages:
        raise ApiError(422, "messages: give at least one.", code="invalid_request")
    last = request.messages[-1]
    before = request.messages[-2].id if len(request.messages) > 1 else None
    if request.trigger == "regenerate-message":
        question = last.id if last.role == "user" else before
        return Asked(request.id, None, extra.get("parent_id", question), True, extra)
    if last.role != "user":
        raise ApiError(422, "messages: the last one must be the user's question.", code="invalid_request")
    document = last.model_dump(mode="json", by_alias=True)
    parts = [{k: v for k, v in part.items() if v is not None} for part in document["parts"]]
    message = {"id": last.id, "role": "user", "parts": parts}
    parent = extra.get("parent_id", before)
    if not isinstance(parent, str | None) or not request.id or not last.id or max(len(request.id), len(last.id)) > 200:
        raise ApiError(422, "id, messages.id, parent_id: give texts of up to 200 letters.", code="invalid_request")
    return Asked(request.id, message, parent, bool(extra.get("branch")), extra)


def keep_files(message: dict[str, Any], files: Files) -> None:
    """Put the files of a question where they are kept once, and refer to them. Raises a 422. Blocking.

    An address would make this machine fetch what a page names: it stays a word of the question.
    """
    for part in message["parts"]:
        url = str(part.get("url", ""))
        if part["type"] != "file" or not url.startswith("data:"):
            continue
        head, _, data = url.partition(",")
        try:
            content = base64.b64decode(data, validate=True) if head.endswith(";base64") else None
        except ValueError:
            content = None
        if not content:
            raise ApiError(422, "A file's data URL is not base64.", code="invalid_request")
        part["url"] = FILE_URL + files.put(content)


def has_images(turns: Sequence[ChatTurn]) -> bool:
    """Return whether any turn carries a picture."""
    parts = [p for t in turns for p in t.parts if p["type"] == "file" and attached.noted(p) is None]
    return any(str(p.get("mediaType", "")).startswith("image/") for p in parts)


def history(turns: Sequence[ChatTurn], files: Files, teller: attached.Teller | None = None) -> list[UIMessage]:
    """Return what the model is told: the turns of the branch, with their files inside. Blocking.

    Documents are told by ``teller``, those of the latest turns first while there is room.
    """
    teller = teller or attached.Teller(files, attached.ROOM, 0)
    told = [[p for part in turn.parts for p in teller.told(part)] for turn in reversed(turns)]
    documents = []
    for turn, inside in zip(turns, reversed(told), strict=True):
        parts = []
        for part in inside:
            if part["type"].startswith("data-"):
                continue
            url = str(part.get("url", ""))
            if part["type"] == "file" and url.startswith(FILE_URL):
                try:
                    data = base64.b64encode(files.get(url.removeprefix(FILE_URL))).decode()
                except OSError:
                    parts.append({"type": "text", "text": "[A file that is not there any more]"})
                    continue
                part = {**part, "url": f"data:{part['mediaType']};base64,{data}"}
            parts.append(part)
        if any(part["type"] != "step-start" for part in parts):
            documents.append({"id": turn.id, "role": turn.role, "parts": parts})
    return _MESSAGES.validate_python(documents)


def model_settings(target: Target, *, temperature: float, max_tokens: int) -> ModelSettings:
    """Return how a turn is sampled; ``temperature`` concerns the built-in model alone, below 0 it is the model's."""
    settings = ModelSettings(max_tokens=max_tokens)
    if target.builtin and temperature >= 0:
        settings["temperature"] = temperature
    return settings


def explain(error: Exception) -> str:
    """Return what an error means for the person who asked."""
    if isinstance(error, ModelHTTPError):
        return f"The model's server says {error.status_code}: {reason(error.body)}"
    if isinstance(error, ModelAPIError) and error.body is not None:  # an error amid the stream
        return f"The model's server says: {reason(error.body)}"
    if isinstance(error, UsageLimitExceeded):
        return f"The model kept calling tools; it was stopped after {MAX_MODEL_REQUESTS} rounds."
    if isinstance(error, (ModelAPIError, httpx.HTTPError)):
        return "The connection to the model was lost; it is being looked after. Please send that again."
    if isinstance(error, ApiError):
        return error.message
    return f"The answer failed: {error or type(error).__name__}"


class _Events(VercelAIEventStream[None, str]):
    async def on_error(self, error: Exception) -> AsyncIterator[BaseChunk]:
        async for chunk in super().on_error(error):
            yield ErrorChunk(error_text=explain(error)) if isinstance(chunk, ErrorChunk) else chunk


@dataclass
class _Adapter(VercelAIAdapter[None, str]):
    def build_event_stream(self) -> _Events:
        return _Events(
            self.run_input,
            accept=self.accept,
            sdk_version=self.sdk_version,
            server_message_id=self.server_message_id,
            manage_system_prompt=self.manage_system_prompt,
        )


def _instructions(sources: Sequence[dict[str, Any]] | None) -> str:
    """Return what the model is told first; ``sources`` are stretches of the user's documents to answer from."""
    if sources is None:
        return INSTRUCTIONS
    found = "\n\n".join(f"[{n}] {s['document']}, page {s['page']}:\n{s['text']}" for n, s in enumerate(sources, 1))
    if not found:
        return f"{INSTRUCTIONS} The user asked about their documents, but nothing was found in them: say so."
    return (
        f"{INSTRUCTIONS} Answer from these stretches of the user's documents and name their numbers, such as [1]; "
        f"say so when they don't tell.\n\n{found}"
    )


async def answer(turn: Turn, begun: Begun, messages: list[UIMessage]) -> AsyncGenerator[dict[str, Any], None]:
    """Yield the chunks of an answer; closing it cancels the model's request."""
    target = turn.target
    async with outgoing.sdk_client(target.api_url, timeout=turn.timeout) as http:
        client = AsyncOpenAI(base_url=target.api_url, api_key=target.key or "none", max_retries=0, http_client=http)
        model = OpenAIChatModel(target.model, provider=OpenAIProvider(openai_client=client))
        agent = Agent(model, instructions=_instructions(turn.sources), tools=list(turn.tools), retries=2)
        adapter = _Adapter(
            agent=agent,
            run_input=SubmitMessage(id=begun.session_id, messages=messages),
            sdk_version=SDK_VERSION,
            server_message_id=begun.turn_id,
            # Files come as data URLs; an address would make this machine fetch what a page names.
            allowed_file_url_schemes=frozenset(),
        )
        limits = UsageLimits(request_limit=MAX_MODEL_REQUESTS)
        stream = adapter.run_stream(usage_limits=limits, model_settings=turn.settings)
        async with aclosing(stream):  # type: ignore[type-var]
            async for chunk in stream:
                if isinstance(chunk, DoneChunk):
                    continue
                if isinstance(chunk, ErrorChunk):
                    log.warning("a chat failed: %s", chunk.error_text)
                    turn.failed()
                document: dict[str, Any] = json.loads(chunk.encode(SDK_VERSION))
                yield document
