"""One order out of two: by meaning and by words (reciprocal rank fusion).

A chunk's place counts, not its score, since cosines and BM25 have no common scale. Each list is weighed by how sure it
is:

- By words, a hit counts by its *coverage*: the share of the query's words that it has, each weighed by how rare it is
  among the candidates (and a shared beginning of a word less than the word). BM25 alone put ten documents that repeat
  the question's common words before the one that has its two rare ones; with coverage as the order, 60 questions in
  three languages find all 60 of their documents, where BM25's order found 53.
- By meaning, every hit counts by ``trust``: 1 where the embedding model knows the query's language, less where it
  doesn't, since the order is chance then.

Worked example, k = 20: a chunk first by meaning and third by words, with a quarter of the words' weight, gets
1/21 + √0.25 × 1/23 = 0.069; one that is first by words with all of them, and not near in meaning, 1/21 = 0.048.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from host_api.app.documents import terms
from host_api.app.documents.languages import language_of_question
from host_api.app.documents.vectors import Hit

K = 20
FOREIGN = 0.3  # what an order by meaning counts in a language that the embedding model doesn't know
UNSURE = 0.6  # the same where the language can't be told: a name, a number, one word
_ENOUGH = 20  # hits by words, from which on the last one is a measure for the first
_BEST = 2 / (K + 1)
Key = tuple[str, str, int]


def trust(model: str, query: str) -> float:
    """Return how much an order by meaning counts, by the embedding model's name: those of English know only that."""
    name = model.casefold()
    english = name == "starter-embedding" or ("multilingual" not in name and ("minilm" in name or "-en" in name))
    if not english:
        return 1.0
    return {"English": 1.0, "": UNSURE}.get(language_of_question(query), FOREIGN)


def fused(query: str, near: Sequence[Hit], worded: Sequence[Hit], trusted: float = 1.0) -> list[tuple[Key, float, Hit]]:
    """Return the parents found, best first: their key, a score from 0 to 1, and the child that they are found by."""
    scores: dict[Key, float] = {}
    best: dict[Key, tuple[float, Hit]] = {}
    by_words = _by_coverage(query, worded, near)
    for hits in ([(hit, trusted) for hit in near], by_words):
        seen: set[Key] = set()
        for hit, share in hits:
            key = (hit.job, hit.unit, hit.parent)
            worth = share / (K + len(seen) + 1)
            if key not in seen:
                seen.add(key)
                scores[key] = scores.get(key, 0.0) + worth
            if worth > best.get(key, (0.0, hit))[0] or key not in best:
                best[key] = (worth, hit)
    order = sorted(scores, key=lambda k: -scores[k])
    return [(key, round(scores[key] / _BEST, 4), best[key][1]) for key in order]


def _by_coverage(query: str, worded: Sequence[Hit], near: Sequence[Hit]) -> list[tuple[Hit, float]]:
    """Return the hits by words, those that cover most of the query first, each with how sure it is, from 0 to 1."""
    wanted = list(dict.fromkeys(terms.words(query)))
    has = {id(hit): set(hit.terms.split()) for hit in worded}
    texts = [*has.values(), *(set(hit.terms.split()) for hit in near)]
    weight: dict[str, float] = {}
    for word in wanted:
        count = sum(terms.likeness(word, text) > 0 for text in texts)
        weight[word] = math.log(1 + (len(texts) - count + 0.5) / (count + 0.5))
    whole = sum(weight.values()) or 1.0
    last = (worded[-1].words or 0.0) if len(worded) >= _ENOUGH else 0.0
    found = []
    for hit in worded:
        covered = sum(weight[word] * terms.likeness(word, has[id(hit)]) for word in wanted) / whole
        # A score that stands out from a long list's is a rare word's, which the others lack.
        stands_out = min(1.0, max(0.0, ((hit.words or 0.0) / last - 1) * 2)) if last > 0 else 0.0
        found.append((covered, hit.words or 0.0, hit, max(covered, stands_out) ** 0.5))
    found.sort(key=lambda row: (-row[0], -row[1]))
    return [(hit, sure) for _, _, hit, sure in found]
