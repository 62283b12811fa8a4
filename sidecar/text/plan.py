"""From a job to rows the engine can run: prompts, budgets, grammars, and how each answer is read.

Everything that can be refused is refused here. CPU work, done on the threads of ``jobs``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from sidecar.backend.loader import LoadedModel
from sidecar.config import Settings
from sidecar.engine.grammar import Constraint, GrammarError
from sidecar.engine.messages import Conversation, Generate, ModelInfo, Sampling, Tokenize
from sidecar.engine.rows import Prompt
from sidecar.errors import ApiError, bad_request
from sidecar.text import images
from sidecar.text.answer import Answer, MarkupReader
from sidecar.text.answer_grammar import Shape, answer_grammar
from sidecar.text.boxes import Boxes, BoxReader, boxes_of, without_marks
from sidecar.text.detokenizer import Detokenizer
from sidecar.text.harmony import HarmonyReader
from sidecar.text.language import Language, language_of
from sidecar.text.lark import Lark
from sidecar.text.prompt import build_prompt, tokenize_text
from sidecar.text.repeats import RepeatWatch
from sidecar.text.schemas import Prepared, SchemaError, arguments_schema, response_schema
from sidecar.text.thinking import ReasoningSplitter, ThinkingMarkers, can_be_off
from sidecar.text.thought_budget import BudgetedThought, budgeted
from sidecar.text.tool_calls import BARE, Markup, ToolReader

SMALL = 1_000_000_000
"""Parameters below which a model is small."""
SMALL_LIMIT = 4096
"""Tokens of a small model's answer when the request gives no limit."""


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
    shape: Shape | None = None
    remarks: tuple[str, ...] = ()
    places: Boxes | None = None
    for prompt in prompts:
        limit = default_limit(loaded, settings)
        context = min(filter(None, (loaded.context, job.context)), default=0)
        budget = token_budget(settings, context, len(prompt.tokens), job.max_tokens, otherwise=limit)
        constraint: Constraint | BudgetedThought | None = None
        if job.conversation is not None:
            shape, remarks = _chat_shape(language, job.conversation, preopened=prompt.preopens_thinking)
            places = boxes_of(loaded, job.conversation.schema, prompt)
            constraint = _constraint(language, shape)
            if job.thinking_budget is not None and shape.thinking is not None:
                constraint = budgeted(loaded, constraint, shape.thinking, job.thinking_budget, inside=shape.inside)
        for sampling in job.samplings:
            received = job.received.get(len(choices), ())
            answer = _answer(language, job, shape, len(choices), settings, places)
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
    return Plan(prompts=prompts, choices=tuple(choices), texts=texts, remarks=remarks)


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
    wanted = asked or otherwise or settings.max_tokens or (1 << 20)
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
    return build_prompt(loaded, chat.messages, (), tools=chat.tools, template=chat.chat_template).tokens


def chat_prompt(loaded: LoadedModel, chat: Conversation, settings: Settings) -> Prompt:
    """Return the prompt of a conversation with its pictures. Raises ApiError."""
    instruction = ""
    if chat.forced and not language_of(loaded, chat.chat_template).knows_tools:
        instruction = 'Answer only with function calls, each as {"name": ..., "arguments": {...}}.'
    elif chat.form == "json_object" and not chat.forced:
        instruction = "Answer with a JSON object."
    return build_prompt(
        loaded,
        chat.messages,
        [images.decode(p.data, settings, param=p.param, side=p.side) for p in chat.pictures],
        tools=chat.tools,
        instruction=instruction,
        template_kwargs=dict(chat.template),
        template=chat.chat_template,
    )


def _chat_shape(language: Language, chat: Conversation, *, preopened: bool) -> tuple[Shape, tuple[str, ...]]:
    """Return what a chat's answer must be like, and remarks on what of its schemas isn't enforced. Raises ApiError."""
    remarks: list[str] = []
    schemas: dict[str, dict[str, Any]] = {}
    for i, tool in enumerate(chat.tools):
        function = tool["function"]
        place = f"tools.{i}.function.parameters"
        made = _prepared(arguments_schema, function.get("parameters"), function.get("strict"), place, "tools")
        schemas[function["name"]] = made.schema
        remarks += [f"{place}: {remark}" for remark in made.remarks]
    document = None
    if chat.form != "text" and not chat.forced:
        place = "response_format.json_schema.schema"
        schema = {"type": "object"} if chat.schema is None else without_marks(chat.schema)
        response = _prepared(response_schema, schema, chat.strict, place, "response_format")
        document = response.schema
        remarks += [f"{place}: {remark}" for remark in response.remarks]
    shape = Shape(
        thinking=language.thinking,
        inside=preopened,
        markup=markup_for(language, chat),
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


def _prepared(make: Any, schema: Any, strict: Any, place: str, param: str) -> Prepared:
    try:
        return cast(Prepared, make(schema, strict=bool(strict)))
    except SchemaError as exc:
        raise _unenforceable(place, exc, param) from exc


def _unenforceable(place: str, exc: Exception, param: str) -> ApiError:
    return bad_request(f"{place}: this schema can't be enforced: {str(exc)[:400]}.", param=param)


def _constraint(language: Language, shape: Shape) -> Constraint | None:
    if shape.free:
        return None
    param = "tools" if shape.schemas else "response_format"
    try:
        return language.grammars.lark(answer_grammar(Lark(language.symbols()), shape))
    except SchemaError as exc:
        raise _unenforceable("tools", exc, "tools") from exc
    except GrammarError as exc:
        raise bad_request(f"{param}: this can't be enforced ({str(exc)[:300]}).", param=param) from exc


def _answer(
    language: Language, job: Generate, shape: Shape | None, index: int, settings: Settings, places: Boxes | None
) -> Answer:
    """Return what reads one choice. ``shape`` None: the answer continues a text."""
    repeats = RepeatWatch() if settings.stop_loops else None
    if shape is None:
        return Answer(Detokenizer(language.vocabulary, continues=True), stops=job.stops, repeats=repeats)
    symbols = language.symbols()
    key = f"{job.call_key}{index}"
    reader: MarkupReader | HarmonyReader | BoxReader
    if language.harmony:
        reader = HarmonyReader(shape.schemas, symbols=symbols, one=shape.one, key=key)
    else:
        tools = None
        if shape.markup is not None:
            tools = ToolReader(shape.markup, shape.schemas, symbols=symbols, one=shape.one, key=key)
        markers = shape.thinking
        if markers is not None:
            markers = ThinkingMarkers(symbols.encode(markers.start), symbols.encode(markers.end))
        reader = MarkupReader(ReasoningSplitter(markers, inside=shape.inside), tools)
    if places is not None:
        reader = BoxReader(reader, places)
    return Answer(Detokenizer(language.vocabulary, symbols=symbols), reader, stops=job.stops, repeats=repeats)
