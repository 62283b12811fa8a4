"""OpenAI's request bodies, as far as a local model honours them.

Nulls mean absent, unknown fields are ignored, and a known field that can't be honoured is refused by
``refuse_unsupported`` with its name.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sidecar.errors import bad_request

MAX_TOP_LOGPROBS = 20
MAX_STOPS = 16
MAX_CHOICES = 8
_INT64 = (1 << 63) - 1

Finite = Annotated[float, Field(allow_inf_nan=False)]


class Body(BaseModel):
    """A request body."""

    model_config = ConfigDict(extra="ignore")


class ImageUrl(Body):
    """Where an image is: a data URL, or what the operator allows."""

    url: str = Field(min_length=1)
    detail: Literal["auto", "low", "high"] | None = None


class TextPart(Body):
    """A piece of text."""

    type: Literal["text"]
    text: str


class RefusalPart(Body):
    """An assistant's refusal, sent back as history."""

    type: Literal["refusal"]
    refusal: str


class ImagePart(Body):
    """An image."""

    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | RefusalPart | ImagePart, Field(discriminator="type")]


class CalledFunction(Body):
    """A function call the assistant made; ``arguments`` is JSON text."""

    name: str
    arguments: str = "{}"


class ToolCall(Body):
    """One call in an assistant message."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(Body):
    """One message of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None


class FunctionDefinition(Body):
    """A function the model may call; ``parameters`` is a JSON schema."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.\-]{1,128}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Body):
    """A tool; only functions exist."""

    type: Literal["function"]
    function: FunctionDefinition


class FunctionName(Body):
    """A function by name."""

    name: str


class NamedTool(Body):
    """``tool_choice`` of one function."""

    type: Literal["function"]
    function: FunctionName


class JsonSchema(Body):
    """A schema the answer must follow."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())
    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | bool | None = Field(default=None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    """The form of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StreamOptions(Body):
    """Options of a stream."""

    include_usage: bool | None = None


KeepAlive = Annotated[str, Field(max_length=40)] | Finite
"""How long a model stays in memory after a request, as Ollama writes it: "5m", seconds, 0, -1 for ever."""

Stop = (
    Annotated[str, Field(min_length=1)]
    | Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=MAX_STOPS)]
)


class SamplingFields(Body):
    """What both kinds of completion share."""

    model: str | None = None
    keep_alive: KeepAlive | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: Finite | None = Field(default=None, ge=0, le=2)
    top_p: Finite | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1)
    min_p: Finite | None = Field(default=None, ge=0, le=1)
    seed: int | None = Field(default=None, ge=-_INT64, le=_INT64)
    stop: Stop | None = None
    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES)
    logit_bias: dict[str, Finite] | None = None
    presence_penalty: Finite | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: Finite | None = Field(default=None, ge=-2, le=2)
    repetition_penalty: Finite | None = Field(default=None, gt=0, le=10)
    user: str | None = None
    priority: int | None = Field(default=None, ge=-_INT64, le=_INT64)
    service_tier: Literal["auto", "default", "flex", "priority", "scale"] | None = None


class ChatRequest(SamplingFields):
    """``POST /v1/chat/completions``."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)
    response_format: ResponseFormat | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    modalities: list[str] | None = None
    audio: dict[str, Any] | None = None
    functions: list[Any] | None = None
    function_call: Any = None
    web_search_options: dict[str, Any] | None = None
    verbosity: str | None = None

    def refuse_unsupported(self) -> None:
        """Raise a 400 for a field this server can't honour."""
        reasons = {
            "store": bool(self.store) and "nothing is stored here; leave it out",
            "modalities": bool(set(self.modalities or []) - {"text"}) and "only text is produced",
            "audio": self.audio is not None and "no audio is produced",
            "functions": self.functions is not None and "use tools",
            "function_call": self.function_call is not None and "use tool_choice",
            "web_search_options": self.web_search_options is not None and "this server does not search the web",
            "verbosity": self.verbosity not in (None, "medium") and "this model has no such setting",
        }
        for name, reason in reasons.items():
            if reason:
                raise bad_request(f"{name} is not supported: {reason}.", param=name, code="unsupported_parameter")
        if self.top_logprobs and not self.logprobs:
            raise bad_request("top_logprobs needs logprobs: true.", param="top_logprobs")


class CompletionRequest(SamplingFields):
    """``POST /v1/completions``: one prompt or several, as text or token ids."""

    prompt: str | list[str] | list[int] | list[list[int]]
    logprobs: int | None = Field(default=None, ge=0, le=5)
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = Field(default=None, ge=1)

    def refuse_unsupported(self) -> None:
        """Raise a 400 for a field this server can't honour."""
        if self.suffix:
            raise bad_request("suffix is not supported.", param="suffix", code="unsupported_parameter")
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise bad_request("best_of is not supported; use n.", param="best_of", code="unsupported_parameter")
        if self.echo and self.logprobs is not None:
            raise bad_request("logprobs of an echoed prompt are not supported.", param="echo")


class EmbeddingRequest(Body):
    """``POST /v1/embeddings``."""

    model: str
    input: str | list[str] | list[int] | list[list[int]]
    keep_alive: KeepAlive | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(default=None, ge=1)
    user: str | None = None


class TokenizeRequest(Body):
    """``POST /tokenize``: a prompt or a conversation."""

    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = None
    tools: list[Tool] | None = None


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    """OpenAI's error envelope."""

    error: ErrorDetail


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI documentation of error statuses."""
    return {status: {"model": ErrorBody, "description": "Error"} for status in statuses}


class PullRequest(Body):
    """A model to fetch; ``stream`` for events of its progress."""

    model: str = Field(min_length=1, max_length=200)
    stream: bool | None = None


class LoadRequest(Body):
    """Options of a load."""

    keep_alive: KeepAlive | None = None
