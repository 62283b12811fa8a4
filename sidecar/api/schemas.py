"""OpenAI's request bodies, as far as a local model honours them.

Nulls mean absent. ``fields.py`` says of each further field that is known whether it is refused or ignored; what nobody
knows is ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from sidecar.api import fields
from sidecar.api.conversation import Body, ImageUrl, Many, Mapped, Message, ResponseFormat, Tool, ToolChoice, form_of
from sidecar.api.texts import Texts
from sidecar.errors import bad_request

MAX_TOP_LOGPROBS = 20
MAX_STOPS = 16
MAX_CHOICES = 8
MAX_STOP_TOKENS = 128
MAX_GRAMMAR = 200_000  # characters
MAX_DEPTH = 64  # levels of a schema, of template arguments
_INT64 = (1 << 63) - 1

Finite = Annotated[float, Field(allow_inf_nan=False)]


class StreamOptions(Body):
    """Options of a stream. ``include_progress``: chunks without choices tell how far it is before the first token."""

    include_usage: bool | None = None
    include_progress: bool | None = None


KeepAlive = Annotated[str, Field(max_length=40)] | Finite
"""How long a model stays in memory after a request, as Ollama writes it: "5m", seconds, 0, -1 for ever."""

Stop = Annotated[
    Annotated[str, Tag("<string>")] | Annotated[Many[str], Field(max_length=MAX_STOPS), Tag("<strings>")],
    form_of({str: "<string>", list: "<strings>"}, f"give a text or a list of at most {MAX_STOPS}"),
]
"""Empty texts among them stop nothing."""


Schema = Annotated[
    Annotated[dict[str, Any], Tag("<object>")] | Annotated[str, Tag("<text>")],
    form_of({dict: "<object>", str: "<text>"}, "give a JSON schema, or its text"),
]
Choices = Annotated[Many[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=10_000)]
Grammar = Annotated[str, Field(max_length=MAX_GRAMMAR)]


class StructuredOutputs(Body):
    """vLLM's ways to say what an answer's words are held to; one of them."""

    json_: Schema | None = Field(default=None, alias="json")
    regex: Grammar | None = None
    choice: Choices | None = None
    grammar: Grammar | None = None
    json_object: bool | None = None
    structural_tag: Any = None
    whitespace_pattern: str | None = None
    disable_additional_properties: bool | None = None


class SamplingFields(Body):
    """What both kinds of completion share."""

    model: str | None = None
    keep_alive: KeepAlive | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: Finite | None = Field(default=None, ge=0, le=2)
    top_p: Finite | None = Field(default=None, ge=0, le=1)
    top_k: int | None = Field(default=None, ge=-1)
    min_p: Finite | None = Field(default=None, ge=0, le=1)
    seed: int | None = Field(default=None, ge=-_INT64 - 1, le=_INT64)
    stop: Stop | None = None
    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES)
    logit_bias: Mapped[Finite] | None = None
    presence_penalty: Finite | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: Finite | None = Field(default=None, ge=-2, le=2)
    repetition_penalty: Finite | None = Field(default=None, gt=0, le=10)
    priority: int | None = Field(default=None, ge=-_INT64, le=_INT64)
    service_tier: Literal["auto", "default", "flex", "priority", "scale"] | None = None
    cache_salt: Annotated[str, Field(max_length=1024)] | None = None
    min_tokens: int | None = Field(default=None, ge=0)
    ignore_eos: bool | None = None
    stop_token_ids: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=MAX_STOP_TOKENS)] | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: Schema | None = None
    guided_regex: Grammar | None = None
    guided_choice: Choices | None = None
    guided_grammar: Grammar | None = None
    grammar: Grammar | None = None
    json_schema: Schema | None = None

    def refuse_unsupported(self) -> None:
        """Raise a 400 for fields that don't go together."""
        form = self.response_format
        if form is not None:
            _shallow(form.schema_ or (form.json_schema and form.json_schema.schema_), "response_format")
        limits = [n for n in (self.max_tokens, getattr(self, "max_completion_tokens", None)) if n is not None]
        if self.min_tokens and limits and self.min_tokens > min(limits):
            raise bad_request(f"min_tokens: at most max_tokens ({min(limits)}) can come.", param="min_tokens")


class Reasoning(Body):
    """Whether and how much the model thinks, as OpenRouter writes it."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    max_tokens: int | None = Field(default=None, ge=0)
    enabled: bool | None = None


class ProcessorOptions(BaseModel):
    """How pictures are scaled, as vLLM takes it for Qwen's models; other options of processors are refused."""

    model_config = ConfigDict(extra="forbid")
    min_pixels: int | None = Field(default=None, ge=1)
    max_pixels: int | None = Field(default=None, ge=1)


class ChatRequest(SamplingFields):
    """``POST /v1/chat/completions``."""

    messages: Many[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)
    tools: Many[Tool] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None
    enable_thinking: bool | None = None
    reasoning: Reasoning | None = None
    thinking_budget: int | None = Field(default=None, ge=-1)
    thinking_token_budget: int | None = Field(default=None, ge=-1)
    min_pixels: int | None = Field(default=None, ge=1)
    max_pixels: int | None = Field(default=None, ge=1)
    mm_processor_kwargs: ProcessorOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _known(cls, body: Any) -> Any:
        return fields.refuse(fields.CHAT, body)

    def refuse_unsupported(self) -> None:
        """Raise a 400 for fields that don't go together."""
        super().refuse_unsupported()
        if self.top_logprobs and not self.logprobs:
            raise bad_request("top_logprobs needs logprobs: true.", param="top_logprobs")
        if self.continue_final_message and self.messages[-1].role != "assistant":
            text = "continue_final_message needs a message of the assistant at the end of messages."
            raise bad_request(text, param="continue_final_message")
        if self.continue_final_message and self.add_generation_prompt:
            text = "continue_final_message and add_generation_prompt exclude each other."
            raise bad_request(text, param="continue_final_message")
        for name in ("chat_template", "tokenize", "return_dict", "return_messages", "num_images", "conversation"):
            if name in (self.chat_template_kwargs or {}):
                raise bad_request(
                    f"chat_template_kwargs.{name}: templates come with the model or from whoever runs the server.",
                    param="chat_template_kwargs",
                )
        _shallow(self.chat_template_kwargs, "chat_template_kwargs")
        for i, tool in enumerate(self.tools or []):
            _shallow(tool.function.parameters, f"tools.{i}.function.parameters")


class CompletionRequest(SamplingFields):
    """``POST /v1/completions``: one prompt or several, as text or token ids."""

    prompt: Texts
    max_tokens: int | None = Field(default=None, ge=0)
    logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)
    echo: bool | None = None
    best_of: int | None = Field(default=None, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _known(cls, body: Any) -> Any:
        return fields.refuse(fields.COMPLETION, body)

    def refuse_unsupported(self) -> None:
        """Raise a 400 for a field this server can't honour."""
        super().refuse_unsupported()
        if self.best_of is not None and self.best_of > (self.n or 1):
            raise bad_request("best_of is not supported; use n.", param="best_of", code="unsupported_parameter")


Url = Annotated[
    Annotated[str, Tag("<url>")] | Annotated[ImageUrl, Tag("<object>")],
    form_of({str: "<url>", dict: "<object>", ImageUrl: "<object>"}, "give an object with url"),
]


class EmbeddingItem(Body):
    """A text or a picture to embed; a picture as a data URL, or as what the operator allows."""

    text: str | None = None
    image: str | None = None
    image_url: Url | None = None

    @property
    def url(self) -> str:
        """The picture's address, "" for a text."""
        given = self.image_url or self.image or ""
        return given if isinstance(given, str) else given.url


def _inputs(value: Any) -> str:
    mixed = isinstance(value, list) and {dict, EmbeddingItem} & set(map(type, value))  # a loop takes 0.1 s a million
    return "<items>" if mixed else "<plain>"


EmbeddingInput = Annotated[
    Annotated[Texts, Tag("<plain>")] | Annotated[Many[str | EmbeddingItem], Tag("<items>")], Discriminator(_inputs)
]


class EmbeddingRequest(Body):
    """``POST /v1/embeddings``."""

    model: str
    input: EmbeddingInput
    keep_alive: KeepAlive | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(default=None, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _known(cls, body: Any) -> Any:
        return fields.refuse(fields.EMBEDDING, body)


class TokenizeRequest(Body):
    """``POST /tokenize``: a prompt or a conversation."""

    model: str | None = None
    prompt: str | None = None
    messages: Many[Message] | None = None
    tools: Many[Tool] | None = None


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


def _shallow(value: Any, param: str) -> None:
    """Raise a 400 where a free document is nested deeper than anything written by hand."""
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise bad_request(f"{param} is nested over {MAX_DEPTH} levels deep.", param=param)
        level = [
            inner
            for one in level
            for inner in (one.values() if isinstance(one, dict) else one if isinstance(one, list) else ())
            if isinstance(inner, dict | list)
        ]
