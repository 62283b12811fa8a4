"""One order out of two: by meaning and by words (reciprocal rank fusion).

A chunk's place counts, not its score, since cosines and BM25 have no common scale. A chunk that has only some of the
query's words counts for that share: a question of eight words always finds something with one of them.

Worked example, k = 60: a chunk first by meaning and third by words, with half of the words, gets
1/61 + 0.5 × 1/63 = 0.0243; one that is first by words with all of them, and not near in meaning, 1/61 = 0.0164.
"""

from __future__ import annotations

from collections.abc import Sequence

from host_api.app.documents import terms
from host_api.app.documents.vectors import Hit

K = 60
_BEST = 2 / (K + 1)
Key = tuple[str, str, int]


def fused(query: str, near: Sequence[Hit], worded: Sequence[Hit]) -> list[tuple[Key, float, Hit]]:
    """Return the parents found, best first: their key, a score from 0 to 1, and the child that they are found by."""
    scores: dict[Key, float] = {}
    best: dict[Key, tuple[float, Hit]] = {}
    for hits in (near, worded):
        seen: set[Key] = set()
        for hit in hits:
            key = (hit.job, hit.unit, hit.parent)
            share = 1.0 if hits is near else _share(query, hit)
            worth = share / (K + len(seen) + 1)
            if key not in seen:
                seen.add(key)
                scores[key] = scores.get(key, 0.0) + worth
            if worth > best.get(key, (0.0, hit))[0] or key not in best:
                best[key] = (worth, hit)
    order = sorted(scores, key=lambda k: -scores[k])
    return [(key, round(scores[key] / _BEST, 4), best[key][1]) for key in order]


def _share(query: str, hit: Hit) -> float:
    has = set(hit.terms.split())
    wanted = terms.words(query)
    found = sum(any(form in has for form in terms.asked(word).split()) for word in wanted)
    return found / len(wanted) if wanted else 0.0
