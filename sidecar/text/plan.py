"""From a job to rows the engine can run: prompts, budgets, grammars, and how each answer is read.

Everything that can be refused is refused here. CPU work, done on the threads of ``jobs``.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sidecar.backend.loader import LoadedModel
from sidecar.config import Settings
from sidecar.engine.asked import Conversation, Guide, PictureData
from sidecar.engine.grammar import Constraint, GrammarError
from sidecar.engine.messages import Generate, ModelInfo, Sampling, Tokenize
from sidecar.engine.rows import GenerationRequest, Prompt, Sink
from sidecar.errors import bad_request
from sidecar.text import images, sounds
from sidecar.text.answer import Answer
from sidecar.text.answer_grammar import Shape, answer_grammar
from sidecar.text.boxes import boxes_of
from sidecar.text.guides import guide_rule, prepared, unenforceable
from sidecar.text.language import Language, language_of
from sidecar.text.lark import Lark
from sidecar.text.prompt import build_prompt, picture_to_embed, tokenize_text
from sidecar.text.reading import answer_of
from sidecar.text.schemas import SchemaError, arguments_schema
from sidecar.text.thinking import can_be_off
from sidecar.text.thought_budget import BudgetedThought, budgeted
from sidecar.text.tool_calls import BARE, Markup

SMALL = 1_000_000_000
"""Parameters below which a model is small."""
SMALL_LIMIT = 4096
"""Tokens of a small model's answer when the request gives no limit."""
_CUT = 6  # tokens at each end of a text that may have been cut amid a word


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One answer to come. ``received``: its tokens that were sent before."""

    prompt: Prompt
    sampling: Sampling
    max_tokens: int
    answer: Answer
    constraint: Constraint | BudgetedThought | None = None
    received: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A job ready to run. ``texts``: of prompts that came as token ids, "" for the others.

    ``remarks``: what of its schemas is not enforced.
    """

    prompts: tuple[Prompt, ...]
    choices: tuple[Choice, ...]
    texts: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


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
        ranks=loaded.ranks,
        thinks=chat and language_of(loaded).thinks,
        thinking_optional=chat and can_be_off(language_of(loaded).template),
        defaults=dict(loaded.defaults),
        can=loaded.can.document() if chat else {},
    )


def plan(loaded: LoadedModel, job: Generate, settings: Settings) -> Plan:
    """Make a job ready for a model. Raises ApiError."""
    if job.conversation is not None:
        prompts: tuple[Prompt, ...] = (chat_prompt(loaded, job.conversation, settings),)
        texts: tuple[str, ...] = ()
    else:
        prompts = tuple(text_prompt(loaded, one) for one in job.prompts)
        texts = tuple("" if isinstance(p, str) else str(loaded.tokenizer.decode(list(p))) for p in job.prompts)
    choices: list[Choice] = []
    language = language_of(loaded, job.conversation.chat_template if job.conversation is not None else "")
    remarks: tuple[str, ...] = ()
    for prompt in prompts:
        limit = default_limit(loaded, settings)
        context = min(filter(None, (loaded.context, job.context)), default=0)
        budget = token_budget(settings, context, len(prompt.tokens), job.max_tokens, otherwise=limit)
        shape, guide, remarks = _held_to(language, job, prompt)
        places = boxes_of(loaded, guide.schema, prompt) if job.conversation is not None and guide is not None else None
        constraint = _constraint(language, shape, guide)
        thought = job.thinking_budget if job.conversation is not None else None
        held = constraint if thought is None else budgeted(language, constraint, thought, inside=shape.inside)
        for sampling in job.samplings:
            received = job.received.get(len(choices), ())
            answer = answer_of(language, job, sampling, shape, places, len(choices), settings)
            own = held.copy() if held is not None else None
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
    return Plan(prompts=prompts, choices=tuple(choices), texts=texts, remarks=remarks)


def _held_to(language: Language, job: Generate, prompt: Prompt) -> tuple[Shape, Guide | None, tuple[str, ...]]:
    """Return what a job's answers must be like, the guide of their words, and remarks. Raises ApiError."""
    chat = job.conversation
    if chat is not None:
        shape, remarks = _chat_shape(language, chat, preopened=prompt.preopens_thinking)
        return shape, None if chat.forced else chat.guide, remarks
    document, remarks = guide_rule(job.guide)
    return Shape(document=document), job.guide, remarks


def row_of(job: Generate, choice: Choice, eos: tuple[int, ...], sink: Sink) -> GenerationRequest:
    """Return what the engine runs for one choice."""
    return GenerationRequest(
        prompt=choice.prompt,
        sampling=choice.sampling,
        max_tokens=choice.max_tokens,
        tier=job.tier,
        priority=job.priority,
        sink=sink,
        arrived=time.monotonic(),
        constraint=choice.constraint,
        eos=eos,
        resumed=choice.received,
        salt=job.salt,
        job=job.id,
    )


def token_budget(
    settings: Settings, context: int, used: int, asked: int | None, *, otherwise: int | None = None
) -> int:
    """Return how many tokens an answer may have after a prompt of ``used``; ``otherwise`` where none were ``asked``.

    More than the context has room for means as much as it has room for, as with Ollama and llama.cpp: clients of other
    APIs must name a number and know no context. Raises a 400 that gives the numbers where nothing fits.
    """
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
    wanted = asked if asked is not None else otherwise or settings.max_tokens or (1 << 20)
    return min(wanted, limit - used) if limit else wanted


def default_limit(loaded: LoadedModel, settings: Settings) -> int | None:
    """Return how long an answer may be when its request doesn't say; None: as long as the context lets it.

    A small model that has lost its way does not find the end; one that thinks may need long for it.
    """
    if settings.max_tokens or language_of(loaded).thinks:
        return settings.max_tokens or None
    config = loaded.config.get("text_config") or loaded.config
    width, layers = config.get("hidden_size"), config.get("num_hidden_layers")
    if not isinstance(width, int) or not isinstance(layers, int):
        return None
    return SMALL_LIMIT if 12 * layers * width * width < SMALL else None  # the usual transformer's matrices


def text_prompt(loaded: LoadedModel, given: str | tuple[int, ...]) -> Prompt:
    """Return the prompt of a text or of token ids. Raises ApiError."""
    if isinstance(given, str):
        return tokenize_text(loaded, given)
    size = len(loaded.tokenizer)
    if not all(0 <= t < size for t in given):
        raise bad_request(f"prompt: token ids are between 0 and {size - 1}.", param="prompt")
    return Prompt(tokens=given)


def texts_of(
    loaded: LoadedModel, inputs: Sequence[str | tuple[int, ...] | PictureData], settings: Settings
) -> list[str | dict[str, Any]]:
    """Return the texts to embed, those given as token ids decoded, and pictures as their arrays. Raises ApiError."""
    size = len(loaded.tokenizer)
    texts: list[str | dict[str, Any]] = []
    for one in inputs:
        if isinstance(one, PictureData):
            texts.append(picture_to_embed(loaded, images.decode(one, settings), one.param))
            continue
        if not isinstance(one, str):
            inside = all(0 <= t < size for t in one)
            text = str(loaded.tokenizer.decode(list(one), skip_special_tokens=True)) if inside else ""
            if not inside or not _own(loaded.tokenizer, one, text):
                raise bad_request(
                    "input: these token ids are not of this model's tokenizer "
                    f"(0 to {size - 1}); OpenAI's clients count with their own. "
                    "Send texts (LangChain: check_embedding_ctx_length=False).",
                    param="input",
                )
            one = text
        texts.append(one)
    if not all(texts):
        raise bad_request("input: a text is empty.", param="input")
    return texts


def _own(tokenizer: Any, tokens: Sequence[int], text: str) -> bool:
    """Return whether token ids may come from this tokenizer: their text gives them again.

    Of ids of another vocabulary the text is a heap of pieces that no tokenizer would leave so. A text cut amid a word
    differs at its ends alone. A few whole words of the wrong vocabulary can't be told.
    """
    special = set(tokenizer.all_special_ids)
    given = [t for t in tokens if t not in special]
    again = [int(t) for t in tokenizer(text, add_special_tokens=False)["input_ids"] if t not in special]
    if given == again or len(given) <= 2 * _CUT:
        return given == again
    inner = given[_CUT:-_CUT]
    return any(again[at : at + len(inner)] == inner for at in range(min(len(again), 4 * _CUT)))


def tokenize(loaded: LoadedModel, request: Tokenize) -> tuple[int, ...]:
    """Return the tokens of a text or of a conversation. Raises ApiError."""
    if request.conversation is None:
        return tokenize_text(loaded, request.prompt or "").tokens
    chat = request.conversation
    return build_prompt(loaded, chat.messages, (), tools=chat.tools, template=chat.chat_template).tokens


def chat_prompt(loaded: LoadedModel, chat: Conversation, settings: Settings) -> Prompt:
    """Return the prompt of a conversation with its pictures. Raises ApiError."""
    instruction = ""
    if chat.forced and not language_of(loaded, chat.chat_template).knows_tools:
        instruction = 'Answer only with function calls, each as {"name": ..., "arguments": {...}}.'
    elif chat.guide is not None and chat.guide.kind == "json_object" and not chat.forced:
        instruction = "Answer with a JSON object."
    return build_prompt(
        loaded,
        chat.messages,
        [images.decode(p, settings) for p in chat.pictures],
        sounds=sounds_of(loaded, chat),
        tools=chat.tools,
        instruction=instruction,
        template_kwargs=dict(chat.template),
        template=chat.chat_template,
    )


def sounds_of(loaded: LoadedModel, chat: Conversation) -> list[sounds.Sound]:
    """Return the sounds of a conversation as the model hears them. Raises ApiError."""
    if len(chat.sounds) > 1 and not getattr(loaded.processor, "supports_multiple_audio", False):
        raise bad_request("messages: this model hears one sound in a conversation.", param=chat.sounds[1].param)
    return [sounds.heard(loaded, s) for s in chat.sounds]


def _chat_shape(language: Language, chat: Conversation, *, preopened: bool) -> tuple[Shape, tuple[str, ...]]:
    """Return what a chat's answer must be like, and remarks on what of its schemas isn't enforced. Raises ApiError."""
    remarks: list[str] = []
    schemas: dict[str, dict[str, Any]] = {}
    for i, tool in enumerate(chat.tools):
        function = tool["function"]
        place = f"tools.{i}.function.parameters"
        made = prepared(arguments_schema, function.get("parameters"), function.get("strict"), place)
        schemas[function["name"]] = made.schema
        remarks += [f"{place}: {remark}" for remark in made.remarks]
    # A call that must come leaves no words to hold, as with OpenAI.
    document, more = guide_rule(None if chat.forced else chat.guide)
    remarks += more
    shape = Shape(
        thinking=language.thinking,
        inside=preopened,
        markup=markup_for(language, chat),
        channels=language.harmony,
        schemas=schemas,
        document=document,
        forced=chat.forced,
        one=not chat.parallel,
    )
    return shape, tuple(remarks)


def markup_for(language: Language, chat: Conversation) -> Markup | None:
    """Return how calls are written; None where there are no tools."""
    if not chat.tools:
        return None
    return BARE if chat.forced and not language.knows_tools else language.markup


def _constraint(language: Language, shape: Shape, guide: Guide | None) -> Constraint | None:
    if shape.free:
        return None
    param = guide.place.split(".")[0] if shape.document and guide is not None else "tools"
    try:
        return language.grammars.lark(answer_grammar(Lark(language.symbols()), shape))
    except SchemaError as exc:
        raise unenforceable("tools", exc) from exc
    except GrammarError as exc:
        raise bad_request(f"{param}: this can't be enforced ({str(exc)[:300]}).", param=param) from exc
