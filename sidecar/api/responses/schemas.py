"""Bodies of ``/v1/responses``. Items and parts are told by their ``type``; others are refused by name.

Source: OpenAI's API reference and the types of its Python SDK, November 2026.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag, model_validator

from sidecar.api import fields
from sidecar.api.conversation import AudioPart, Body, Many, Mapped, VideoPart, form_of
from sidecar.api.fields import Ignored, Refused
from sidecar.api.schemas import MAX_TOP_LOGPROBS, Finite, KeepAlive

FIELDS: dict[str, Refused | Ignored] = {
    "background_options": Ignored("background work runs in the batch tier"),
    "context_management": Refused("history is never cut or summed up in silence; send less of it"),
    "conversation": Refused("use previous_response_id"),
    "image": Refused("no images are made"),
    "max_tool_calls": Ignored("it counts calls of built-in tools; there are none"),
    "moderation": Ignored("nothing is moderated"),
    "prompt": Refused("no prompts are stored; send instructions and input"),
    "prompt_cache_key": Ignored("prefixes are kept by themselves"),
    "prompt_cache_options": Ignored("prefixes are kept by themselves"),
    "prompt_cache_retention": Ignored("prefixes are kept by themselves"),
    "safety_identifier": Ignored("there are no accounts on this machine"),
    "access_programs": Ignored("there are no accounts on this machine"),
    "truncation": Refused("a prompt is never cut in silence; send less", ("disabled",)),
    "user": Ignored("there are no accounts on this machine"),
}


class InputText(Body):
    """A piece of text, said or answered."""

    type: Literal["input_text", "output_text", "text", "reasoning_text", "summary_text"]
    text: str


class Refusal(Body):
    """An assistant's refusal, sent back as history."""

    type: Literal["refusal"]
    refusal: str


class InputImage(Body):
    """An image as a data URL, or where the operator allows it."""

    type: Literal["input_image"]
    image_url: str = Field(min_length=1)
    detail: Literal["auto", "low", "high", "original"] | None = None


class InputFile(Body):
    """A file as a data URL: its pages are read into the conversation."""

    type: Literal["input_file"]
    file_data: str | None = Field(default=None, min_length=1)
    filename: str | None = None
    file_id: str | None = None
    file_url: str | None = None


def _part(value: Any) -> str | None:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return {
        "input_text": "<text>",
        "output_text": "<text>",
        "text": "<text>",
        "reasoning_text": "<text>",
        "summary_text": "<text>",
        "refusal": "<refusal>",
        "input_image": "<image>",
        "input_file": "<file>",
        "input_audio": "<audio>",
        "video_url": "<video>",
    }.get(str(kind))


Part = Annotated[
    Annotated[InputText, Tag("<text>")]
    | Annotated[Refusal, Tag("<refusal>")]
    | Annotated[InputImage, Tag("<image>")]
    | Annotated[InputFile, Tag("<file>")]
    | Annotated[AudioPart, Tag("<audio>")]
    | Annotated[VideoPart, Tag("<video>")],
    Discriminator(
        _part,
        custom_error_type="part",
        custom_error_message="this server reads parts of type input_text, input_image, input_file, input_audio, "
        "video_url, output_text",
    ),
]
Content = Annotated[
    Annotated[str, Tag("<string>")] | Annotated[Many[Part], Tag("<parts>")],
    form_of({str: "<string>", list: "<parts>"}, "give a text or a list of parts"),
]


class MessageItem(Body):
    """A message of the conversation."""

    type: Literal["message"] = "message"
    id: str | None = None
    role: Literal["user", "assistant", "system", "developer"]
    content: Content


class CallItem(Body):
    """A function call the model made; ``arguments`` is JSON text."""

    type: Literal["function_call"]
    id: str | None = None
    call_id: str
    name: str
    arguments: str = "{}"


class CustomCallItem(Body):
    """A call of a tool that takes plain text."""

    type: Literal["custom_tool_call"]
    id: str | None = None
    call_id: str
    name: str
    input: str


class OutputItem(Body):
    """What a call gave."""

    type: Literal["function_call_output", "custom_tool_call_output"]
    id: str | None = None
    call_id: str
    output: Content


class ReasoningItem(Body):
    """What the model thought before, sent back as history."""

    type: Literal["reasoning"]
    id: str | None = None
    summary: Many[Part] = Field(default_factory=list)
    content: Many[Part] | None = None


class ReferenceItem(Body):
    """An item of a stored response."""

    type: Literal["item_reference"]
    id: str


_ITEMS = {
    "message": "<message>",
    "function_call": "<call>",
    "custom_tool_call": "<custom call>",
    "function_call_output": "<output>",
    "custom_tool_call_output": "<output>",
    "reasoning": "<reasoning>",
    "item_reference": "<reference>",
}


def _item(value: Any) -> str | None:
    if isinstance(value, dict):
        kind = value.get("type") or ("message" if "role" in value else "item_reference" if "id" in value else None)
    else:
        kind = getattr(value, "type", None)
    return _ITEMS.get(str(kind))


Item = Annotated[
    Annotated[MessageItem, Tag("<message>")]
    | Annotated[CallItem, Tag("<call>")]
    | Annotated[CustomCallItem, Tag("<custom call>")]
    | Annotated[OutputItem, Tag("<output>")]
    | Annotated[ReasoningItem, Tag("<reasoning>")]
    | Annotated[ReferenceItem, Tag("<reference>")],
    Discriminator(
        _item,
        custom_error_type="item",
        custom_error_message="this server takes items of type message, function_call, function_call_output, "
        "custom_tool_call, custom_tool_call_output, reasoning, item_reference",
    ),
]
Input = Annotated[
    Annotated[str, Tag("<string>")] | Annotated[Many[Item], Tag("<items>")],
    form_of({str: "<string>", list: "<items>"}, "give a text or a list of items"),
]


class Tool(Body):
    """A function, a tool that takes plain text, or a hosted tool, which is left out."""

    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class TextFormat(Body):
    """The form of the answer."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())
    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class TextConfig(Body):
    """How the answer is written."""

    format: TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class Reasoning(Body):
    """How much the model thinks. There are no summaries: the thoughts themselves come."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    summary: str | None = None


class ResponseRequest(Body):
    """``POST /v1/responses``."""

    model: str | None = None
    input: Input | None = None
    instructions: str | None = None
    tools: Many[Tool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    max_output_tokens: int | None = Field(default=None, ge=1)
    temperature: Finite | None = Field(default=None, ge=0, le=2)
    top_p: Finite | None = Field(default=None, ge=0, le=1)
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)
    include: Many[str] | None = None
    text: TextConfig | None = None
    reasoning: Reasoning | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    background: bool | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    metadata: Mapped[str] | None = None
    service_tier: Literal["auto", "default", "flex", "priority", "scale"] | None = None
    priority: int | None = None
    keep_alive: KeepAlive | None = None
    seed: int | None = None
    top_k: int | None = Field(default=None, ge=-1)
    min_p: Finite | None = Field(default=None, ge=0, le=1)

    @model_validator(mode="before")
    @classmethod
    def _known(cls, body: Any) -> Any:
        return fields.refuse(FIELDS, body)
