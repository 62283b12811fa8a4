"""Are documents found? 60 questions in English, Chinese and German over 180 made documents of seven formats.

    python -m benchmarks.retrieval --draw held-out --seed 11

Each question names what its document says in other order or inflection. Hit at 5, by meaning, by words, by plain fusion
of both orders and as the service ranks, with the starter's embedding model, which knows English. ``--draw held-out``:
documents and questions of other words, written after the weights were set. Uses the starter (MLX_SIDECAR_DATA_DIR).
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx

from benchmarks.retrieval_words import DRAWS, Draw
from host_api.app.documents import chunks, ranking, readers
from host_api.app.documents.vectors import Child, Hit, Vectors
from tests.support.documents import docx, pdf, pptx, xlsx
from tests.support.servers import data_folder, sidecar

FORMATS = ("txt", "docx", "pptx", "xlsx", "html", "csv", "pdf")


def made(form: str, text: str, facts: tuple[str, ...]) -> bytes:
    """Return a document of a format that says ``text``."""
    if form == "docx":
        return docx(text, [])
    if form == "pptx":
        return pptx([("Summary", []), (text, [])])
    if form == "xlsx":
        return xlsx({"Data": [("Thing", "Place", "Year", "Cost"), facts, ("-", "-", "1900", "0")]})
    if form == "html":
        return f"<meta charset=utf-8><nav>Menu</nav><main><p>{text}</p></main>".encode()
    if form == "csv":
        return f"Thing,Place,Year,Cost\n{','.join(facts)}\n-,-,1900,0\n".encode(
            "gb18030" if not text.isascii() else "utf-8"
        )
    return pdf([(text, [])]) if form == "pdf" and text.isascii() else text.encode("utf-8-sig")


def documents(draw: Draw, dice: random.Random) -> Iterator[tuple[str, str, bytes, str]]:
    """Yield the documents, one for each thing at each place: name, language, bytes, question."""
    pairs = [(la, t, p) for la in draw.places for t in draw.things[la] for p in draw.places[la]]
    dice.shuffle(pairs)
    for i, (la, thing, place) in enumerate(pairs):
        facts = (thing[0], place, str(1950 + i % 70), str(100 + 7 * i))
        form = FORMATS[i % len(FORMATS)]
        suffix = "txt" if form == "pdf" and la != "en" else form
        text = dice.choice(draw.says[la]).format(*facts)
        text = f"{dice.choice(draw.chatter[la])} {text} {dice.choice(draw.chatter[la])}".strip()
        asked = dice.choice(draw.asks[la]).format(thing[1], place)
        yield f"document {i}.{suffix}", la, made(form, text, facts), asked


def plainly_fused(near: Sequence[Hit], worded: Sequence[Hit]) -> list[str]:
    """Return the jobs by reciprocal rank fusion of both orders as they come: what the service did before."""
    scores: dict[str, float] = {}
    for hits in (near, worded):
        for place, job in enumerate(dict.fromkeys(hit.job for hit in hits)):
            scores[job] = scores.get(job, 0.0) + 1 / (60 + place + 1)
    return sorted(scores, key=lambda job: -scores[job])


def main() -> int:
    """Index, ask, and print the share of questions whose document is among the first five."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draw", choices=DRAWS, default="tuned", help="tuned: what the weights were tuned on")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--asked", type=int, default=20, help="questions of each language")
    args = parser.parse_args()
    dice = random.Random(args.seed)
    data = data_folder()
    given = list(documents(DRAWS[args.draw], dice))
    with (
        tempfile.TemporaryDirectory() as folder,
        sidecar(Path(folder), data_dir=data) as server,
        server.client() as http,
    ):

        def embed(texts: list[str]) -> list[list[float]]:
            found: list[list[float]] = []
            for i in range(0, len(texts), 32):
                body = {"model": "starter-embedding", "input": texts[i : i + 32]}
                answer = http.post("/v1/embeddings", json=body, timeout=httpx.Timeout(120)).raise_for_status().json()
                found += [row["embedding"] for row in answer["data"]]
            return found

        store = Vectors(Path(folder) / "vectors")
        pieces = [
            (i, name, page.number, p, c, child.text)
            for i, (name, _, content, _) in enumerate(given)
            for page in readers.pages(name, content)
            for p, parent in enumerate(chunks.build(page))
            for c, child in enumerate(parent.children)
        ]
        vectors = embed([piece[-1] for piece in pieces])
        for i in range(len(given)):
            rows = [
                Child(f"{i:032x}", str(n), p, c, text, "", vector)
                for (j, _, n, p, c, text), vector in zip(pieces, vectors, strict=True)
                if j == i
            ]
            store.replace("starter-embedding", f"{i:032x}", "1", rows)
        store.compact()
        print(f"{len(given)} documents, {len(pieces)} chunks")
        for la in DRAWS[args.draw].places:
            asked = [i for i, row in enumerate(given) if row[1] == la][: args.asked]
            hits = {"by meaning": 0, "by words": 0, "plain fusion": 0, "both": 0}
            for i, vector in zip(asked, embed([given[i][3] for i in asked]), strict=True):
                trusted = ranking.trust("starter-embedding", given[i][3])
                near = store.near("starter-embedding", vector, 60)
                worded = store.with_words(given[i][3], 60)
                hits["plain fusion"] += f"{i:032x}" in plainly_fused(near, worded)[:5]
                for name, order in (("by meaning", (near, [])), ("by words", ([], worded)), ("both", (near, worded))):
                    best = ranking.fused(given[i][3], *order, trusted)[:5]
                    hits[name] += any(int(key[0], 16) == i for key, _, _ in best)
            print(f"{la}: " + ", ".join(f"{name} {count} of {len(asked)}" for name, count in hits.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
