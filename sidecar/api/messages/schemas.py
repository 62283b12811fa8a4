"""Bodies of ``/v1/messages``. Blocks are told by their ``type``; others are refused by name.

Source: Anthropic's API reference and the types of its Python SDK, November 2026.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, Tag, model_validator

from sidecar.api import fields
from sidecar.api.conversation import Body, Many, form_of, kind_of
from sidecar.api.fields import Ignored, Refused
from sidecar.api.schemas import MAX_STOPS, Finite, KeepAlive

FIELDS: dict[str, Refused | Ignored] = {
    "cache_control": Ignored("prefixes are kept by themselves"),
    "container": Refused("there are no containers"),
    "context_management": Ignored("its edits are wishes of clients; nothing is cleared in silence"),
    "diagnostics": Ignored("the log has what there is to say"),
    "inference_geo": Ignored("everything stays on this machine"),
    "mcp_servers": Refused("offer their tools as tools", ([],)),
    "metadata": Ignored("there are no accounts on this machine"),
    "speed": Ignored("there is one speed"),
    "betas": Ignored("what is there is there for all"),
    "billing_policy": Ignored("there are no accounts on this machine"),
    "compaction": Ignored("a wish of clients; history is never summed up in silence"),
    "fallback_credit_token": Ignored("there are no accounts on this machine"),
    "fallbacks": Ignored("there is one model; the request names it"),
    "thread": Refused("no threads are stored; send the messages themselves"),
    "user_profile_id": Ignored("there are no accounts on this machine"),
    "workspace_id": Ignored("there are no accounts on this machine"),
}


class TextBlock(Body):
    """A piece of text."""

    type: Literal["text"]
    text: str


class Base64Source(Body):
    """Data as base64."""

    type: Literal["base64"]
    media_type: str
    data: str


class UrlSource(Body):
    """Data at an address."""

    type: Literal["url"]
    url: str


class PlainSource(Body):
    """Data as text."""

    type: Literal["text"]
    data: str
    media_type: str | None = None


class ContentSource(Body):
    """A document that is made of blocks."""

    type: Literal["content"]
    content: str | list[Any]


class ImageBlock(Body):
    """An image."""

    type: Literal["image"]
    source: Annotated[
        Annotated[Base64Source, Tag("<base64>")] | Annotated[UrlSource, Tag("<url>")],
        kind_of({"base64": "<base64>", "url": "<url>"}, "this server takes images with a source"),
    ]


class DocumentBlock(Body):
    """A document: text, or a file as base64 whose pages are read into the conversation."""

    type: Literal["document"]
    source: Annotated[
        Annotated[Base64Source, Tag("<base64>")]
        | Annotated[PlainSource, Tag("<text>")]
        | Annotated[ContentSource, Tag("<content>")],
        kind_of(
            {"base64": "<base64>", "text": "<text>", "content": "<content>"},
            "this server takes documents with a source",
        ),
    ]
    title: str | None = None
    context: str | None = None


class ToolUseBlock(Body):
    """A call the model made."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any] = Field(default_factory=dict)


class ThinkingBlock(Body):
    """What the model thought before."""

    type: Literal["thinking"]
    thinking: str = ""
    signature: str | None = None


class RedactedBlock(Body):
    """A thought that nobody can read here."""

    type: Literal["redacted_thinking"]
    data: str | None = None


ResultBlock = Annotated[
    Annotated[TextBlock, Tag("<text>")]
    | Annotated[ImageBlock, Tag("<image>")]
    | Annotated[DocumentBlock, Tag("<document>")],
    kind_of({"text": "<text>", "image": "<image>", "document": "<document>"}, "a tool's result has blocks"),
]
ResultContent = Annotated[
    Annotated[str, Tag("<string>")] | Annotated[Many[ResultBlock], Tag("<blocks>")],
    form_of({str: "<string>", list: "<blocks>"}, "give a text or a list of blocks"),
]


class ToolResultBlock(Body):
    """What a call gave."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: ResultContent | None = None
    is_error: bool | None = None


Block = Annotated[
    Annotated[TextBlock, Tag("<text>")]
    | Annotated[ImageBlock, Tag("<image>")]
    | Annotated[DocumentBlock, Tag("<document>")]
    | Annotated[ToolUseBlock, Tag("<tool_use>")]
    | Annotated[ToolResultBlock, Tag("<tool_result>")]
    | Annotated[ThinkingBlock, Tag("<thinking>")]
    | Annotated[RedactedBlock, Tag("<redacted>")],
    kind_of(
        {
            "text": "<text>",
            "image": "<image>",
            "document": "<document>",
            "tool_use": "<tool_use>",
            "tool_result": "<tool_result>",
            "thinking": "<thinking>",
            "redacted_thinking": "<redacted>",
        },
        "this server reads blocks",
    ),
]
Content = Annotated[
    Annotated[str, Tag("<string>")] | Annotated[Many[Block], Tag("<blocks>")],
    form_of({str: "<string>", list: "<blocks>"}, "give a text or a list of blocks"),
]


class Message(Body):
    """One message of the conversation."""

    role: Literal["user", "assistant", "system"]
    content: Content


System = Annotated[
    Annotated[str, Tag("<string>")] | Annotated[Many[TextBlock], Tag("<blocks>")],
    form_of({str: "<string>", list: "<blocks>"}, "give a text or a list of text blocks"),
]


class Tool(Body):
    """A tool; those that a service would carry out by itself are left out."""

    type: str | None = None
    name: str = Field(pattern=r"^[A-Za-z0-9_.\-]{1,128}$")
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None


class ToolChoice(Body):
    """Whether, and which, tool is called."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(Body):
    """Whether the model thinks first."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = Field(default=None, ge=1)
    display: str | None = None


class OutputFormat(Body):
    """A schema the answer must follow."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())
    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(Body):
    """How the answer is written."""

    effort: str | None = None
    format: OutputFormat | None = None


class CountRequest(Body):
    """``POST /v1/messages/count_tokens``."""

    model: str | None = None
    messages: Many[Message] = Field(min_length=1)
    system: System | None = None
    tools: Many[Tool] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None

    @model_validator(mode="before")
    @classmethod
    def _known(cls, body: Any) -> Any:
        return fields.refuse(FIELDS, body)


class MessagesRequest(CountRequest):
    """``POST /v1/messages``."""

    max_tokens: int = Field(ge=1)
    stop_sequences: list[str] | None = Field(default=None, max_length=MAX_STOPS)
    stream: bool | None = None
    temperature: Finite | None = Field(default=None, ge=0, le=2)
    top_p: Finite | None = Field(default=None, ge=0, le=1)
    top_k: int | None = Field(default=None, ge=-1)
    service_tier: Literal["auto", "standard_only"] | None = None
    keep_alive: KeepAlive | None = None
    priority: int | None = None
