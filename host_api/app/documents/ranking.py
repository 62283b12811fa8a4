"""One order out of two: by meaning and by words (reciprocal rank fusion).

A chunk's place counts, not its score, since cosines and BM25 have no common scale. What is found by words counts by
how sure that is: by the share of the query's words that it has, since a question of eight words always finds something
with one of them; or fully where its BM25 stands out from the rest of the list, since then it has the rare word (a
name, a number) that the others lack.

Worked example, k = 20: a chunk first by meaning and third by words, with a quarter of the words, gets
1/21 + √0.25 × 1/23 = 0.069; one that is first by words with all of them, and not near in meaning, 1/21 = 0.048.
"""

from __future__ import annotations

from collections.abc import Sequence

from host_api.app.documents import terms
from host_api.app.documents.vectors import Hit

K = 20
_ENOUGH = 20  # hits by words, from which on the last one is a measure for the first
_BEST = 2 / (K + 1)
Key = tuple[str, str, int]


def fused(query: str, near: Sequence[Hit], worded: Sequence[Hit]) -> list[tuple[Key, float, Hit]]:
    """Return the parents found, best first: their key, a score from 0 to 1, and the child that they are found by."""
    scores: dict[Key, float] = {}
    best: dict[Key, tuple[float, Hit]] = {}
    for hits in (near, worded):
        seen: set[Key] = set()
        base = (hits[-1].words or 0.0) if hits is worded and len(hits) >= _ENOUGH else 0.0
        for hit in hits:
            key = (hit.job, hit.unit, hit.parent)
            share = 1.0 if hits is near else _sureness(query, hit, base)
            worth = share / (K + len(seen) + 1)
            if key not in seen:
                seen.add(key)
                scores[key] = scores.get(key, 0.0) + worth
            if worth > best.get(key, (0.0, hit))[0] or key not in best:
                best[key] = (worth, hit)
    order = sorted(scores, key=lambda k: -scores[k])
    return [(key, round(scores[key] / _BEST, 4), best[key][1]) for key in order]


def _sureness(query: str, hit: Hit, base: float) -> float:
    """Return from 0 to 1 how much a hit by words means: ``base`` is the score of the last one in a long list."""
    stands_out = min(1.0, max(0.0, ((hit.words or 0.0) / base - 1) * 2)) if base > 0 else 0.0
    return float(max(terms.share(terms.words(query), set(hit.terms.split())), stands_out) ** 0.5)
