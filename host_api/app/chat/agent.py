"""A chat turn as a stream of the AI SDK's UI messages, through PydanticAI's adapter."""

from __future__ import annotations

import logging
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

import httpx
from anyio import CancelScope
from openai import AsyncOpenAI
from pydantic_ai import Agent
from pydantic_ai.exceptions import ModelAPIError, ModelHTTPError, UsageLimitExceeded
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.run import AgentRunResult
from pydantic_ai.settings import ModelSettings
from pydantic_ai.ui.vercel_ai import VercelAIAdapter, VercelAIEventStream
from pydantic_ai.ui.vercel_ai.request_types import FileUIPart, RequestData
from pydantic_ai.ui.vercel_ai.response_types import BaseChunk, ErrorChunk, TextDeltaChunk
from pydantic_ai.usage import UsageLimits
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from host_api.app.chat.tools import Tool
from host_api.app.models.gateway import Target, reason

log = logging.getLogger("host.chat")

SDK_VERSION: Final = 7
MAX_MODEL_REQUESTS = 8
INSTRUCTIONS = "You are a helpful assistant on the user's own computer. Answer briefly and truthfully."


@dataclass(frozen=True)
class Turn:
    """One request of a chat. ``saved`` receives the whole conversation, also when it ends early."""

    run_input: RequestData
    target: Target
    tools: Sequence[Tool]
    timeout: float
    settings: ModelSettings
    saved: Callable[[list[dict[str, Any]]], None]
    failed: Callable[[Exception], None]


def has_images(run_input: RequestData) -> bool:
    """Whether any message of the conversation carries an image."""
    return any(
        isinstance(part, FileUIPart) and part.media_type.startswith("image/")
        for message in run_input.messages
        for part in message.parts
    )


def model_settings(target: Target, *, temperature: float, max_tokens: int) -> ModelSettings:
    """How a turn is sampled; ``temperature`` concerns the built-in model alone, below 0 it is the model's own."""
    settings = ModelSettings(max_tokens=max_tokens)
    if target.builtin and temperature >= 0:
        settings["temperature"] = temperature
    return settings


def parse(body: bytes) -> RequestData:
    """The request ``useChat`` sent. Raises pydantic's ValidationError."""
    return VercelAIAdapter.build_run_input(body)


def explain(error: Exception) -> str:
    """What an error means for the person who asked."""
    if isinstance(error, ModelHTTPError):
        return f"The model's server says {error.status_code}: {reason(error.body)}"
    if isinstance(error, ModelAPIError) and error.body is not None:  # an error amid the stream
        return f"The model's server says: {reason(error.body)}"
    if isinstance(error, UsageLimitExceeded):
        return f"The model kept calling tools; it was stopped after {MAX_MODEL_REQUESTS} rounds."
    if isinstance(error, (ModelAPIError, httpx.HTTPError)):
        return "The connection to the model was lost; it is being looked after. Please send that again."
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


class _Closing(StreamingResponse):
    """Closes its source when the client leaves: one that left between two events would else wait for the
    garbage collector, and the model would go on answering nobody."""

    source: AsyncGenerator[BaseChunk, None]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            with CancelScope(shield=True):
                await self.source.aclose()


def respond(turn: Turn) -> StreamingResponse:
    """The streaming answer; a client that leaves cancels the run, and with it the model's request."""
    message_id = uuid.uuid4().hex
    client = AsyncOpenAI(
        base_url=turn.target.api_url,
        api_key=turn.target.key or "none",
        max_retries=0,
        timeout=turn.timeout,
    )
    model = OpenAIChatModel(turn.target.model, provider=OpenAIProvider(openai_client=client))
    agent = Agent(model, instructions=INSTRUCTIONS, tools=list(turn.tools), retries=2)
    adapter = _Adapter(
        agent=agent,
        run_input=turn.run_input,
        sdk_version=SDK_VERSION,
        server_message_id=message_id,
        # Files come as data URLs; an address would make this machine fetch what a page names.
        allowed_file_url_schemes=frozenset(),
    )
    sent = [m.model_dump(mode="json", by_alias=True) for m in turn.run_input.messages]
    answer: list[Any] = []
    partial: list[str] = []

    def complete(result: AgentRunResult[Any]) -> None:
        dumped = VercelAIAdapter.dump_messages(result.new_messages(), sdk_version=SDK_VERSION)
        for message in dumped:
            if message.role == "assistant":
                answer.extend(p.model_dump(mode="json", by_alias=True) for p in message.parts)

    async def events() -> AsyncGenerator[BaseChunk, None]:
        try:
            limits = UsageLimits(request_limit=MAX_MODEL_REQUESTS)
            stream = adapter.run_stream(usage_limits=limits, model_settings=turn.settings, on_complete=complete)
            async with aclosing(stream):  # type: ignore[type-var]
                async for chunk in stream:
                    if isinstance(chunk, TextDeltaChunk):
                        partial.append(chunk.delta)
                    elif isinstance(chunk, ErrorChunk):
                        log.warning("a chat failed: %s", chunk.error_text)
                        turn.failed(RuntimeError(chunk.error_text))
                    yield chunk
        finally:
            parts = answer or ([{"type": "text", "text": "".join(partial), "state": "done"}] if partial else [])
            turn.saved([*sent, {"id": message_id, "role": "assistant", "parts": parts}] if parts else sent)
            await client.close()

    source = events()
    plain = adapter.streaming_response(source)
    response = _Closing(plain.body_iterator, headers=dict(plain.headers))
    response.source = source
    response.headers["X-Session-Id"] = turn.run_input.id
    response.headers["Cache-Control"] = "no-store"
    return response
