"""Tags of a text, by a JSON schema or, from models that know none, out of plain words; normalised."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from host_api.app.errors import ApiError
from host_api.app.models.gateway import Gateway, ProviderRefusal

log = logging.getLogger("host.tasks")

MOST = 8
LONGEST = 40
_WORDS = 4  # more in one piece are a sentence
_TEXT = 6000
_VOCABULARY = 1000  # characters of the user's words in a prompt
_REFUSED = frozenset({400, 404, 405, 415, 422, 501})
SCHEMA = {
    "type": "object",
    "properties": {
        "tags": {"type": "array", "items": {"type": "string", "maxLength": LONGEST}, "minItems": 1, "maxItems": 5}
    },
    "required": ["tags"],
    "additionalProperties": False,
}


def normalise(tags: Iterable[object]) -> list[str]:
    """Lower case, single spaces, no ``#``, each once in the order given, at most ``MOST``."""
    found: dict[str, None] = {}
    for tag in tags:
        text = unicodedata.normalize("NFKC", str(tag)).casefold()
        text = " ".join(text.replace("_", " ").split()).strip(" #.,;:!?\"'`()[]{}*-")
        if text and len(text) <= LONGEST:
            found.setdefault(text)
    return list(found)[:MOST]


def read(said: str) -> list[str]:
    """Tags out of what a model wrote when asked for a list with commas: JSON, bullets and lines are taken too."""
    said = re.sub(r"<think>.*?(</think>|$)", " ", said, flags=re.DOTALL)
    if listed := in_json(said):
        return listed
    for block in re.split(r"\n\s*\n", re.sub(r"```\w*", "\n", said).strip()):
        found: list[str] = []
        for line in block.splitlines():
            words = re.sub(r"^\s*(?:[-*•]|\d{1,2}[.)])\s+", "", line).strip()
            # "Here are the tags:" is an introduction, "Tags: bread, water" has one.
            words = re.sub(r"^[^,;:]{0,60}:(\s+|$)", "", words)
            # What has more words, or ends a sentence within, is no tag.
            pieces = [p for p in re.split(r"[,;•|]|\s#", words) if len(p.split()) <= _WORDS]
            tags = normalise(p for p in pieces if not re.search(r"[.!?]\s+\S", p))
            if len(tags) > 1 and not found:
                return tags  # the line asked for; small models go on after it
            found += tags
        if found:
            return normalise(found)
    return []


def in_json(said: str) -> list[str]:
    """The texts of the JSON object or list in an answer, as tags; none when there is no such."""
    for opening, closing in ("{}", "[]"):
        start, end = said.find(opening), said.rfind(closing)
        if 0 <= start < end:
            with contextlib.suppress(ValueError):
                return normalise(_strings(json.loads(said[start : end + 1])))
    return []


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


def by_schema(said: str) -> list[str] | None:
    """Tags out of an answer by ``SCHEMA``, or None when it isn't one."""
    try:
        document = json.loads(said)
    except ValueError:
        return None
    tags = document.get("tags") if isinstance(document, dict) and list(document) == ["tags"] else None
    if not isinstance(tags, list) or not all(isinstance(t, str) for t in tags):
        return None
    return normalise(tags) or None


def _given(text: str, task: str = "") -> dict[str, str]:
    return {"role": "user", "content": f"{task}Text: {text}\n\nTags:"}


# Two examples are what makes small models answer in this form. No system message: some templates take none.
_TASK = "Give 3 to 5 short topic tags for a text: the tags alone, on one line, with commas between them.\n\n"
_EXAMPLES = (
    _given("The central bank raised interest rates, and share prices fell.", _TASK),
    {"role": "assistant", "content": "economy, banks, interest rates"},
    _given("Our dog hurt its paw on a walk in the woods."),
    {"role": "assistant", "content": "dogs, injuries, walks"},
)


def _wishes(language: str, vocabulary: Sequence[str]) -> str:
    """Return what to ask for besides tags: their language, and the words that the user has for things."""
    said = f" Write the tags in {language}." if language and language != "English" else ""
    known = ", ".join(vocabulary)[:_VOCABULARY]
    return f"{said} Prefer these tags where they fit: {known}." if known else said


async def tags_of(
    gateway: Gateway, text: str, *, attempt: int = 1, language: str = "", vocabulary: Sequence[str] = ()
) -> list[str]:
    """Ask the ``structured_output`` model, or the ``text`` model where there is none. Raises ApiError.

    The schema is tried where the model may know it; an answer that is not by it, a provider that refuses it or, from
    the second ``attempt`` on, one that failed over it, is asked for words instead.
    """
    target, schema = await gateway.structured()
    wishes = _wishes(language, vocabulary)
    if schema and (target.builtin or attempt == 1):
        prompt = f"Give short topic tags (1 to 3 words each) for this text.{wishes}\n\n{text[:_TEXT]}\n\nTags as JSON:"
        form = {"type": "json_schema", "json_schema": {"name": "tags", "schema": SCHEMA, "strict": True}}
        messages = [{"role": "user", "content": prompt}]
        body = {"messages": messages, "response_format": form, "temperature": 0, "max_tokens": 700}
        try:
            said = _words(await gateway.post(target, "/chat/completions", body, batch=True))
        except ProviderRefusal as exc:
            if target.builtin or exc.answered not in _REFUSED:
                raise
            log.info("%s takes no schema: %s", target.model, exc.message)
        else:
            if found := by_schema(said) or in_json(said):
                return found
    asked = _given(text[:_TEXT], f"{wishes.strip()}\n\n" if wishes else "")
    body = {"messages": [*_EXAMPLES, asked], "temperature": 0, "max_tokens": 400}
    found = read(_words(await gateway.post(target, "/chat/completions", body, batch=True)))
    if not found:
        raise ApiError(502, "The model gave no usable tag.", code="provider_invalid")
    return found


def _words(document: dict[str, Any]) -> str:
    try:
        return document["choices"][0]["message"]["content"] or ""
    except (KeyError, IndexError, TypeError) as exc:
        raise ApiError(502, "The answer has no message.", code="provider_invalid") from exc
