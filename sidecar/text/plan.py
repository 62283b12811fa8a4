"""From a job to rows the engine can run: prompts, budgets, grammars, and how each answer is read.

Everything that can be refused is refused here. CPU work, done on the threads of ``jobs``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sidecar.backend.loader import LoadedModel
from sidecar.config import Settings
from sidecar.engine.grammar import Constraint, GrammarError
from sidecar.engine.messages import Conversation, Generate, ModelInfo, Sampling, Tokenize
from sidecar.engine.rows import Prompt
from sidecar.errors import bad_request
from sidecar.text import images
from sidecar.text.answer import Answer, ForcedCalls, ReasoningSplitter, ToolSplitter, calls_grammar
from sidecar.text.prompt import (
    build_prompt,
    knows_thinking,
    knows_tools,
    template_text,
    thinking_can_be_off,
    tokenize_text,
)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One answer to come. ``received``: its tokens that were sent before."""

    prompt: Prompt
    sampling: Sampling
    max_tokens: int
    answer: Answer
    constraint: Constraint | None = None
    received: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A job ready to run. ``texts``: of prompts that came as token ids, "" for the others."""

    prompts: tuple[Prompt, ...]
    choices: tuple[Choice, ...]
    texts: tuple[str, ...] = ()


def info(loaded: LoadedModel) -> ModelInfo:
    """Return what the listener needs to know of a model."""
    chat = loaded.kind == "chat"
    return ModelInfo(
        path=str(loaded.path),
        kind=loaded.kind,
        model_type=loaded.model_type,
        vocabulary=len(loaded.tokenizer),
        context=loaded.context,
        sees=loaded.sees,
        thinks=chat and knows_thinking(loaded),
        thinking_optional=chat and thinking_can_be_off(loaded),
        defaults=dict(loaded.defaults),
    )


def plan(loaded: LoadedModel, job: Generate, settings: Settings) -> Plan:
    """Make a job ready for a model. Raises ApiError."""
    if job.conversation is not None:
        prompts: tuple[Prompt, ...] = (_chat_prompt(loaded, job.conversation, settings),)
        texts: tuple[str, ...] = ()
    else:
        prompts = tuple(text_prompt(loaded, one) for one in job.prompts)
        texts = tuple("" if isinstance(p, str) else str(loaded.tokenizer.decode(list(p))) for p in job.prompts)
    choices: list[Choice] = []
    for prompt in prompts:
        budget = token_budget(settings, loaded.context, len(prompt.tokens), job.max_tokens)
        constraint = _constraint(loaded, job.conversation, preopened=prompt.preopens_thinking)
        for sampling in job.samplings:
            received = job.received.get(len(choices), ())
            answer = _answer(loaded, job, len(choices), preopened=prompt.preopens_thinking)
            own = constraint.copy() if constraint is not None else None
            for token in received:
                answer.token(token)
                if own is not None:
                    own.accept(token)
            choices.append(
                Choice(
                    prompt=prompt,
                    sampling=sampling,
                    max_tokens=budget,
                    answer=answer,
                    constraint=own,
                    received=received,
                )
            )
    return Plan(prompts=prompts, choices=tuple(choices), texts=texts)


def token_budget(settings: Settings, context: int, used: int, asked: int | None) -> int:
    """Return how many tokens an answer may have after a prompt of ``used``. Raises a 400 that gives the numbers."""
    limits = [n for n in (settings.max_context, context) if n > 0]
    if not used:
        raise bad_request("The prompt is empty.", param="messages")
    limit = min(limits) if limits else 0
    if limit and used >= limit:
        raise bad_request(
            f"The prompt has {used} tokens and the context is {limit}; shorten it.",
            param="messages",
            code="context_length_exceeded",
        )
    if limit and asked is not None and used + asked > limit:
        raise bad_request(
            f"The prompt's {used} tokens and the {asked} asked for exceed the context of {limit} tokens; "
            f"ask for at most {limit - used}.",
            param="max_tokens",
            code="context_length_exceeded",
        )
    wanted = asked or settings.max_tokens or (1 << 20)
    return min(wanted, limit - used) if limit else wanted


def text_prompt(loaded: LoadedModel, given: str | tuple[int, ...]) -> Prompt:
    """Return the prompt of a text or of token ids. Raises ApiError."""
    if isinstance(given, str):
        return tokenize_text(loaded, given)
    size = len(loaded.tokenizer)
    if not all(0 <= t < size for t in given):
        raise bad_request(f"prompt: token ids are between 0 and {size - 1}.", param="prompt")
    return Prompt(tokens=given)


def texts_of(loaded: LoadedModel, inputs: Sequence[str | tuple[int, ...]]) -> list[str]:
    """Return the texts to embed, those given as token ids decoded. Raises ApiError."""
    size = len(loaded.tokenizer)
    texts = []
    for one in inputs:
        if not isinstance(one, str):
            if any(not 0 <= t < size for t in one):
                raise bad_request(f"input: token ids are between 0 and {size - 1}.", param="input")
            one = str(loaded.tokenizer.decode(list(one), skip_special_tokens=True))
        texts.append(one)
    if not all(texts):
        raise bad_request("input: a text is empty.", param="input")
    return texts


def tokenize(loaded: LoadedModel, request: Tokenize) -> tuple[int, ...]:
    """Return the tokens of a text or of a conversation. Raises ApiError."""
    if request.conversation is None:
        return tokenize_text(loaded, request.prompt or "").tokens
    chat = request.conversation
    return build_prompt(loaded, chat.messages, (), tools=chat.tools).tokens


def _chat_prompt(loaded: LoadedModel, chat: Conversation, settings: Settings) -> Prompt:
    instruction = ""
    if chat.forced:
        instruction = 'Answer only with function calls, each as {"name": ..., "arguments": {...}}.'
    elif chat.form == "json_object":
        instruction = "Answer with a JSON object."
    return build_prompt(
        loaded,
        chat.messages,
        [images.decode(p.data, settings, param=p.param) for p in chat.pictures],
        tools=chat.tools,
        instruction=instruction,
        template_kwargs=dict(chat.template),
    )


def _constraint(loaded: LoadedModel, chat: Conversation | None, *, preopened: bool) -> Constraint | None:
    if chat is None or not (chat.forced or chat.form != "text"):
        return None
    after = _think_end(loaded) if preopened else None
    try:
        if chat.forced:
            return loaded.grammars.lark(calls_grammar(chat.tools, parallel=chat.parallel), start_after=after)
        return loaded.grammars.json_schema(chat.schema, start_after=after)
    except GrammarError as exc:
        param = "tools" if chat.forced else "response_format"
        raise bad_request(f"{param}: this schema can't be enforced ({str(exc)[:300]}).", param=param) from exc


def _think_end(loaded: LoadedModel) -> int | None:
    ids = loaded.tokenizer.encode(ReasoningSplitter.END, add_special_tokens=False)
    return int(ids[-1]) if ids else None


def _answer(loaded: LoadedModel, job: Generate, index: int, *, preopened: bool) -> Answer:
    from mlx_vlm.tokenizer_utils import make_streaming_detokenizer

    chat = job.conversation
    key = f"{job.call_key}{index}"
    reader: ToolSplitter | ForcedCalls | None = None
    if chat is not None and chat.forced:
        reader = ForcedCalls(chat.tools, key=key)
    elif chat is not None and chat.tools:
        reader = ToolSplitter(_parser(loaded), chat.tools, one=not chat.parallel, key=key)
    return Answer(
        make_streaming_detokenizer(loaded.processor),
        stops=job.stops,
        thinking=chat is not None and knows_thinking(loaded),
        preopened=preopened,
        tools=reader,
    )


def _parser(loaded: LoadedModel) -> Any:
    """Return the parser of the model's own tool markup; of JSON in ``<tool_call>`` where it has none."""
    from mlx_vlm.tools.registry import _infer_tool_parser, load_tool_module

    name = _infer_tool_parser(template_text(loaded)) if knows_tools(loaded) else None
    return load_tool_module(name or "json_tools")


def token_text(loaded: LoadedModel, token: int) -> tuple[str, bytes]:
    """Return a token's text and bytes; bytes are exact also where they are part of a character."""
    from mlx_vlm.tokenizer_utils import BPEStreamingDetokenizer

    detokenizer = loaded.processor.detokenizer
    if isinstance(detokenizer, BPEStreamingDetokenizer):
        piece = loaded.tokenizer.convert_ids_to_tokens(token)
        table: dict[str, int] | None = getattr(BPEStreamingDetokenizer, "_byte_decoder", None)
        if table is not None and piece is not None and all(c in table for c in piece):
            raw = bytes(table[c] for c in piece)
            return raw.decode("utf-8", "replace"), raw
    text = str(loaded.tokenizer.decode([token]))
    return text, text.encode()
