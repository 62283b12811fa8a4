"""What stands in a conversation: messages and their parts, tools, and the form of the answer.

Where a field takes several forms, the form is told first and then checked, so that an error names the field and not a
branch of a union.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError


def form_of(forms: dict[type, str], advice: str) -> Discriminator:
    """Return a discriminator by the value's type; tags in angle brackets are left out of error locations."""

    def tag(value: Any) -> str | None:
        return next((name for kind, name in forms.items() if isinstance(value, kind)), None)

    return Discriminator(tag, custom_error_type="form", custom_error_message=advice)


def kind_of(names: dict[str, str], what: str) -> Discriminator:
    """Return a discriminator by the field ``type``."""

    def tag(value: Any) -> str | None:
        kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
        return names.get(kind) if isinstance(kind, str) else None

    return Discriminator(tag, custom_error_type="kind", custom_error_message=f"{what} of type {', '.join(names)}")


_T = TypeVar("_T")
Many = Annotated[list[_T], Field(fail_fast=True)]
"""A list whose first fault is the only one told: each takes a kilobyte, and half a million were 660 MB for 1.5 MB."""


MOST_KEYS = 4096


def _few(value: Any) -> Any:
    if isinstance(value, dict) and len(value) > MOST_KEYS:
        raise PydanticCustomError("too_long", f"give at most {MOST_KEYS} keys")
    return value


Mapped = Annotated[dict[str, _T], BeforeValidator(_few)]
"""A mapping that is refused for its size before each of its values is: pydantic tells a fault for every one."""


class Body(BaseModel):
    """A request body."""

    model_config = ConfigDict(extra="ignore")


class ImageUrl(Body):
    """Where an image is: a data URL, or what the operator allows."""

    url: str = Field(min_length=1)
    detail: Literal["auto", "low", "high", "original"] | None = None


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
    image_url: Annotated[
        Annotated[str, Tag("<url>")] | Annotated[ImageUrl, Tag("<object>")],
        form_of({str: "<url>", dict: "<object>", ImageUrl: "<object>"}, "give an object with url"),
    ]

    min_pixels: int | None = Field(default=None, ge=1)
    max_pixels: int | None = Field(default=None, ge=1)

    @property
    def url(self) -> str:
        """The image's address."""
        return self.image_url if isinstance(self.image_url, str) else self.image_url.url

    @property
    def detail(self) -> str | None:
        """OpenAI's level of detail."""
        return None if isinstance(self.image_url, str) else self.image_url.detail


class FileData(Body):
    """A file: its bytes as a data URL, and its name, under which its pages can be cited."""

    file_data: str | None = None
    filename: str | None = None
    file_id: str | None = None


class FilePart(Body):
    """A document whose pages are read into the conversation."""

    type: Literal["file"]
    file: FileData


class VideoUrl(Body):
    """Where a video is: a data URL, or what the operator allows."""

    url: str = Field(min_length=1)


class VideoPart(Body):
    """A video or an animated picture, shown to the model by frames of it.

    ``fps``: frames for each of its seconds, ``max_frames``: of all of it, at most.
    """

    type: Literal["video_url"]
    video_url: Annotated[
        Annotated[str, Tag("<url>")] | Annotated[VideoUrl, Tag("<object>")],
        form_of({str: "<url>", dict: "<object>", VideoUrl: "<object>"}, "give an object with url"),
    ]
    fps: float | None = Field(default=None, gt=0, le=120)
    max_frames: int | None = Field(default=None, ge=1)

    @property
    def url(self) -> str:
        """The video's address."""
        return self.video_url if isinstance(self.video_url, str) else self.video_url.url


class AudioData(Body):
    """A sound: its bytes in base64 (or a data URL). What ``format`` says is told by the bytes themselves."""

    data: str = Field(min_length=1)
    format: str | None = None


class AudioPart(Body):
    """A sound, for models that hear."""

    type: Literal["input_audio"]
    input_audio: AudioData


class AudioUrl(Body):
    """Where a sound is: a data URL, or what the operator allows."""

    url: str = Field(min_length=1)


class AudioUrlPart(Body):
    """A sound by its address, as vLLM takes it."""

    type: Literal["audio_url"]
    audio_url: AudioUrl


Part = Annotated[
    Annotated[TextPart, Tag("<text>")]
    | Annotated[RefusalPart, Tag("<refusal>")]
    | Annotated[ImagePart, Tag("<image>")]
    | Annotated[VideoPart, Tag("<video>")]
    | Annotated[AudioPart, Tag("<audio>")]
    | Annotated[AudioUrlPart, Tag("<audio-url>")]
    | Annotated[FilePart, Tag("<file>")],
    kind_of(
        {
            "text": "<text>",
            "image_url": "<image>",
            "video_url": "<video>",
            "input_audio": "<audio>",
            "audio_url": "<audio-url>",
            "file": "<file>",
            "refusal": "<refusal>",
        },
        "this server reads parts",
    ),
]
Content = Annotated[
    Annotated[str, Tag("<string>")] | Annotated[Many[Part], Tag("<parts>")],
    form_of({str: "<string>", list: "<parts>"}, "give a text or a list of parts"),
]


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
    content: Content | None = None
    name: str | None = None
    tool_calls: Many[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None


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


class AllowedNames(Body):
    """Some of the tools, and whether one of them must be called."""

    mode: Literal["auto", "required"]
    tools: Many[NamedTool] = Field(min_length=1)


class AllowedTools(Body):
    """``tool_choice`` of some functions."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedNames


def _choice(value: Any) -> str | None:
    if isinstance(value, str):
        return "<word>"
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return {"function": "<function>", "allowed_tools": "<allowed>"}.get(kind) if isinstance(kind, str) else None


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("<word>")]
    | Annotated[NamedTool, Tag("<function>")]
    | Annotated[AllowedTools, Tag("<allowed>")],
    Discriminator(
        _choice,
        custom_error_type="choice",
        custom_error_message="say none, auto or required, or give an object of type function or allowed_tools",
    ),
]


class JsonSchema(Body):
    """A schema the answer must follow."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())
    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | bool | None = Field(default=None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    """The form of the answer; ``schema`` beside json_object, as llama.cpp takes it, is a schema too."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
