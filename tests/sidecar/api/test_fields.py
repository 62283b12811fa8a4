"""The tables of fields and kinds know all of both SDKs' own request types, and say of them what the schemas do."""

from __future__ import annotations

import typing
from typing import Any

import pydantic
import pytest
from anthropic.types import message_count_tokens_params, message_create_params, tool_union_param
from anthropic.types.beta import beta_content_block_param, beta_tool_union_param
from anthropic.types.beta import message_create_params as beta_message_create_params
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import (
    chat_completion_content_part_param,
    chat_completion_tool_union_param,
)
from openai.types.chat import (
    completion_create_params as chat_create_params,
)
from openai.types.responses import (
    response_create_params,
    response_input_content_param,
    response_input_item_param,
    tool_param,
)
from pydantic import TypeAdapter, ValidationError

from sidecar.api import conversation, events, fields, kinds
from sidecar.api.messages import schemas as messages
from sidecar.api.messages import translate as messages_translate
from sidecar.api.responses import schemas as responses
from sidecar.api.responses import translate as responses_translate
from sidecar.api.schemas import ChatRequest, CompletionRequest, EmbeddingRequest

REQUESTS: dict[str, tuple[Any, dict[str, Any], tuple[Any, ...]]] = {
    "chat": (
        ChatRequest,
        fields.CHAT,
        (chat_create_params.CompletionCreateParamsNonStreaming, chat_create_params.CompletionCreateParamsStreaming),
    ),
    "completions": (
        CompletionRequest,
        fields.COMPLETION,
        (
            completion_create_params.CompletionCreateParamsNonStreaming,
            completion_create_params.CompletionCreateParamsStreaming,
        ),
    ),
    "embeddings": (EmbeddingRequest, fields.EMBEDDING, (embedding_create_params.EmbeddingCreateParams,)),
    "responses": (
        responses.ResponseRequest,
        responses.FIELDS,
        (
            response_create_params.ResponseCreateParamsNonStreaming,
            response_create_params.ResponseCreateParamsStreaming,
        ),
    ),
    "messages": (
        messages.MessagesRequest,
        messages.FIELDS,
        (
            message_create_params.MessageCreateParamsNonStreaming,
            message_create_params.MessageCreateParamsStreaming,
            beta_message_create_params.MessageCreateParamsNonStreaming,
        ),
    ),
    "count": (messages.CountRequest, messages.FIELDS, (message_count_tokens_params.MessageCountTokensParams,)),
}


@pytest.mark.parametrize("name", list(REQUESTS))
def test_every_field_of_the_sdks_requests_is_honoured_or_in_the_table(name: str) -> None:
    model, table, params = REQUESTS[name]
    honoured = set(model.model_fields)
    theirs = {field for one in params for field in typing.get_type_hints(one)}
    assert "model" in theirs
    assert sorted(theirs - honoured - set(table)) == []
    assert not honoured & set(table), "a field is one or the other"


def kinds_of(union: Any) -> set[str]:
    """Return the ``type`` of every member of an SDK's union, unions in it included."""
    found: set[str] = set()
    for member in typing.get_args(union):
        if not isinstance(member, type):
            found |= kinds_of(member)
            continue
        if issubclass(member, pydantic.BaseModel):  # blocks of answers, which may be sent back as they are
            hint: Any = member.model_fields["type"].annotation
        else:
            hint = typing.get_type_hints(member).get("type") if hasattr(member, "__total__") else None
        while hint is not None and typing.get_origin(hint) is not typing.Literal:
            args = typing.get_args(hint)
            hint = args[0] if args else None
        found |= set(typing.get_args(hint)) if hint is not None else set()
    return found


UNIONS: dict[str, tuple[dict[str, str], tuple[Any, ...]]] = {
    "parts": (kinds.PARTS, (chat_completion_content_part_param.ChatCompletionContentPartParam,)),
    "chat-tools": (kinds.CHAT_TOOLS, (chat_completion_tool_union_param.ChatCompletionToolUnionParam,)),
    "inputs": (kinds.INPUTS, (response_input_content_param.ResponseInputContentParam,)),
    "items": (kinds.ITEMS, (response_input_item_param.ResponseInputItemParam,)),
    "tools": (kinds.TOOLS, (tool_param.ToolParam,)),
    "blocks": (kinds.BLOCKS, (beta_content_block_param.BetaContentBlockParam,)),
    "message-tools": (
        kinds.MESSAGE_TOOLS,
        (tool_union_param.ToolUnionParam, beta_tool_union_param.BetaToolUnionParam),
    ),
}


@pytest.mark.parametrize("name", list(UNIONS))
def test_every_kind_of_the_sdks_is_in_the_table(name: str) -> None:
    table, unions = UNIONS[name]
    theirs = {kind for union in unions for kind in kinds_of(union)}
    assert len(theirs) > 1
    assert sorted(kind for kind in theirs if events.entry(table, kind) is None) == []


CHECKED: dict[str, tuple[dict[str, str], Any, str]] = {
    "parts": (kinds.PARTS, conversation.Part, "kind"),
    "inputs": (kinds.INPUTS, responses.Part, "part"),
    "items": (kinds.ITEMS, responses.Item, "item"),
    "blocks": (kinds.BLOCKS, messages.Block, "kind"),
}


@pytest.mark.parametrize("name", list(CHECKED))
def test_the_schemas_take_what_the_table_says_and_refuse_the_rest_by_name(name: str) -> None:
    table, form, refusal = CHECKED[name]
    adapter: TypeAdapter[Any] = TypeAdapter(form)
    for pattern, why in table.items():
        kind = pattern.replace("*", "x")
        try:
            adapter.validate_python({"type": kind})
            refused = False  # a block that needs no more
        except ValidationError as exc:
            refused = any(error["type"] == refusal and not error["loc"] for error in exc.errors())
        assert refused == bool(why), f"{kind}: {why}"


def test_tools_are_taken_or_left_out_as_the_table_says() -> None:
    for pattern, why in kinds.TOOLS.items():
        for kind in {pattern.replace("*", ""), pattern.replace("*", "_preview")}:
            asked_for = responses.ResponseRequest.model_validate({"input": "x", "tools": [{"type": kind, "name": "f"}]})
            chat = responses_translate.chat_of(asked_for, [], lambda _: None)
            assert bool(chat.tools) == (not why), kind
    for pattern, why in kinds.MESSAGE_TOOLS.items():
        kind = pattern.replace("*", "20260101")
        tool = {"type": kind, "name": "f", "input_schema": {"type": "object"}}
        asked = {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "x"}], "tools": [tool]}
        chat = messages_translate.chat_of(messages.MessagesRequest.model_validate(asked))
        assert bool(chat.tools) == (not why), kind
    for kind, why in kinds.CHAT_TOOLS.items():
        tool = {"type": kind, kind: {"name": "f"}}
        body = {"messages": [{"role": "user", "content": "x"}], "tools": [tool]}
        try:
            ChatRequest.model_validate(body)
            assert not why, kind
        except ValidationError:
            assert why, kind
