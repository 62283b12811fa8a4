"""Tags of a file: its pictures described first, a long one by its parts, in its language, by the user's vocabulary.

A file without words and without a picture that a model can describe has no tags; a model would invent some. A long
file is asked about in parts spread over it, each at batch priority, and what several parts say counts more: a report
of 300 pages isn't about its first two.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from host_api.app.data.jobs import Jobs
from host_api.app.data.tables import Job
from host_api.app.documents import deciding, reading, tagging, terms
from host_api.app.documents.describing import describe
from host_api.app.documents.languages import language_of
from host_api.app.documents.worker import Progress
from host_api.app.models.gateway import Gateway

VOCABULARY = "vocabulary"  # in a job's parameters
_PART = 6000  # characters asked about at once
_PARTS = 8
_SCANNED = 600_000  # characters looked at
_LITTLE = 200  # characters; a file with fewer is what its pictures show
_PICTURES = 3
_PAGES_OF_PICTURES = 5


class Tagger:
    """Tags what was uploaded."""

    def __init__(self, jobs: Jobs, gateway: Gateway) -> None:
        self._jobs = jobs
        self._gateway = gateway

    async def tag(self, job: Job, progress: Progress) -> dict[str, Any]:
        """Return ``{"tags": …}``, with a note where there are none. Raises ApiError."""
        content = await asyncio.to_thread(self._jobs.content, job)
        words, pictures = await asyncio.to_thread(_read, job.name, content)
        if len(words) < _LITTLE:
            for number, picture in enumerate(pictures, 1):
                await progress.report(0, 1, f"picture {number} of {len(pictures)}")
                words += "\n" + await describe(self._gateway, picture)
        if not words.strip():
            why = "no model describes its pictures" if pictures else "it has no words and no pictures"
            return {"tags": [], "note": f"{reading.shown_name(job.name)} has no tags: {why}."}
        vocabulary = [v for v in job.params.get(VOCABULARY, "").split("\n") if v]
        language = language_of(words)
        answers = []
        parts = spread(words.strip(), _PART, _PARTS)
        for number, part in enumerate(parts):
            await progress.report(number, len(parts), f"part {number + 1} of {len(parts)}")
            found = await tagging.tags_of(
                self._gateway, part, attempt=job.attempts, language=language, vocabulary=vocabulary
            )
            answers.append(found)
        missing = await asyncio.to_thread(lambda: [word for word in vocabulary if not _has(words, word)])
        if missing:
            await progress.report(len(parts), len(parts), "your own words")
            target, _ = await self._gateway.structured()
            answers.append(await deciding.fitting(self._gateway, target, parts[0], missing))
        tags = await asyncio.to_thread(merged, answers, words, vocabulary)
        return {"tags": tags, "language": language or None}


def _read(name: str, content: bytes) -> tuple[str, list[bytes]]:
    """Return a file's words and its first pictures. Raises an ApiError. Blocking."""
    document = reading.Document(name, content)
    parts: list[str] = []
    pictures: list[bytes] = []
    size = 0
    for page in document.pages():
        parts.append(page.text)
        size += len(page.text)
        if page.number <= _PAGES_OF_PICTURES:
            pictures += page.pictures[: _PICTURES - len(pictures)]
        if size > _SCANNED:
            break
    document.close()
    return "\n\n".join(filter(None, parts)), pictures


def spread(text: str, size: int, most: int) -> list[str]:
    """Return the whole text where it is one part, else at most ``most`` parts, evenly over it."""
    count = min(most, -(-len(text) // size))
    if count <= 1:
        return [text]
    step = (len(text) - size) / (count - 1)
    return [text[round(i * step) : round(i * step) + size] for i in range(count)]


def merged(answers: Sequence[Sequence[str]], text: str, vocabulary: Sequence[str]) -> list[str]:
    """Return one list: what more parts say first, the user's own word for it where there is one.

    Words of the vocabulary that the text itself has are tags even where the model names others.
    """
    own = {_folded(word): word for word in vocabulary}
    votes: dict[str, float] = {}
    for answer in answers:
        for place, tag in enumerate(answer):
            key = own.get(_folded(tag), tag)
            votes[key] = votes.get(key, 0.0) + 1 - place / 100
    for word in vocabulary:
        if _has(text, word):
            votes[word] = votes.get(word, 0.0) + 1
    order = sorted(votes, key=lambda tag: (tag not in own.values(), -votes[tag]))
    return list(dict.fromkeys(tag for tag in order))[: tagging.MOST]


def _has(text: str, word: str) -> bool:
    """Return whether a text has a word, in whatever inflection the search knows."""
    has, wanted = _indexed(text), terms.words(word)
    return bool(wanted) and all(any(f in has for f in terms.asked(w).split()) for w in wanted)


@lru_cache(maxsize=2)
def _indexed(text: str) -> frozenset[str]:
    return frozenset(terms.indexed(text).split())


def _folded(tag: str) -> str:
    """Return what two spellings of a tag have in common: case, accents, hyphens and a plural's ending aside."""
    found = terms.words(tag)
    return " ".join(word[:-1] if len(word) > 4 and word.endswith("s") else word for word in found) or tag.casefold()
