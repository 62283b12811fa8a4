"""What reads an answer: its tokens become thought, words and calls."""

from __future__ import annotations

from functools import partial

from sidecar.config import Settings
from sidecar.engine.messages import Generate, Sampling
from sidecar.text.answer import Answer, MarkupReader
from sidecar.text.answer_grammar import Shape
from sidecar.text.boxes import Boxes, BoxReader
from sidecar.text.detokenizer import Detokenizer, Symbols
from sidecar.text.harmony import HarmonyReader
from sidecar.text.language import Language
from sidecar.text.repeats import RepeatWatch
from sidecar.text.thinking import ReasoningSplitter, ThinkingMarkers
from sidecar.text.tool_calls import ToolReader


def answer_of(
    language: Language,
    job: Generate,
    sampling: Sampling,
    shape: Shape,
    places: Boxes | None,
    index: int,
    settings: Settings,
) -> Answer:
    """Return what reads one choice. ``places``: of its words, to be mapped."""
    repeats = RepeatWatch() if settings.stop_loops and not sampling.ignore_eos else None
    answer = partial(Answer, stops=job.stops, repeats=repeats, min_tokens=sampling.min_tokens)
    if job.conversation is None:
        return answer(Detokenizer(language.vocabulary, continues=True))
    symbols = language.symbols()
    reader: MarkupReader | HarmonyReader | BoxReader = _reader(language, symbols, shape, f"{job.call_key}{index}")
    if places is not None:
        reader = BoxReader(reader, places)
    return answer(Detokenizer(language.vocabulary, symbols=symbols), reader)


def _reader(language: Language, symbols: Symbols, shape: Shape, key: str) -> MarkupReader | HarmonyReader:
    if language.harmony:
        return HarmonyReader(shape.schemas, symbols=symbols, one=shape.one, key=key)
    tools = None
    if shape.markup is not None:
        tools = ToolReader(shape.markup, shape.schemas, symbols=symbols, one=shape.one, key=key)
    markers = shape.thinking
    if markers is not None:
        markers = ThinkingMarkers(symbols.encode(markers.start), symbols.encode(markers.end))
    return MarkupReader(ReasoningSplitter(markers, inside=shape.inside), tools)
