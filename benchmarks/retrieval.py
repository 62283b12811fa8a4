"""Are documents found? 60 questions in English, Chinese and German over 180 made documents of seven formats.

    python -m benchmarks.retrieval

Each question names what its document says in other order or inflection. Hit at 5, by meaning, by words and by both,
with the starter's embedding model, which knows English. Uses the starter model's folder (MLX_SIDECAR_DATA_DIR).
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx

from host_api.app.documents import chunks, ranking, readers
from host_api.app.documents.vectors import Child, Vectors
from tests.support.documents import docx, pdf, pptx, xlsx
from tests.support.servers import sidecar

PLACES = {
    "en": ("Ashford", "Brackley", "Corsham", "Dunster", "Exmoor", "Fowey", "Glossop", "Hexham", "Ilkley", "Kendal"),
    "zh": ("杭州", "苏州", "成都", "昆明", "厦门", "大连", "青岛", "桂林", "洛阳", "西安"),
    "de": ("Aachen", "Bamberg", "Celle", "Dessau", "Erfurt", "Fulda", "Gotha", "Husum", "Jena", "Kassel"),
}
THINGS = {
    "en": (
        ("bakery", "bakeries"),
        ("printer", "printers"),
        ("tractor", "tractors"),
        ("violin", "violins"),
        ("kettle", "kettles"),
        ("bicycle", "bicycles"),
    ),
    "zh": (
        ("苹果汁", "苹果汁"),
        ("打印机", "打印机"),
        ("拖拉机", "拖拉机"),
        ("小提琴", "小提琴"),
        ("自行车", "自行车"),
        ("电水壶", "电水壶"),
    ),
    "de": (
        ("Brandschutzverordnung", "Verordnung zum Brandschutz"),
        ("Kaffeemaschine", "Kaffeemaschinen"),
        ("Rechnungsprüfung", "Prüfung der Rechnung"),
        ("Wasserleitung", "Wasserleitungen"),
        ("Fahrradwerkstatt", "Fahrradwerkstätten"),
        ("Gartengeräte", "Gartengerät"),
    ),
}
SAYS = {
    "en": "The report on the {0} in {1}: it was opened in {2} and costs {3} pounds a year.",
    "zh": "关于{1}的{0}的报告：于{2}年开始使用，每年费用为{3}元。",
    "de": "Bericht über die {0} in {1}: seit {2} in Betrieb, Kosten von {3} Euro im Jahr.",
}
ASKS = {"en": "What do we know about {1}'s {0}?", "zh": "{1}的{0}每年费用是多少？", "de": "Was kostet in {1} die {0}?"}
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


def documents(dice: random.Random) -> Iterator[tuple[str, str, bytes, str]]:
    """Yield the documents, one for each thing at each place: name, language, bytes, question."""
    pairs = [(la, t, p) for la in PLACES for t in THINGS[la] for p in PLACES[la]]
    dice.shuffle(pairs)
    for i, (la, thing, place) in enumerate(pairs):
        facts = (thing[0], place, str(1950 + i % 70), str(100 + 7 * i))
        form = FORMATS[i % len(FORMATS)]
        suffix = "txt" if form == "pdf" and la != "en" else form
        yield f"document {i}.{suffix}", la, made(form, SAYS[la].format(*facts), facts), ASKS[la].format(thing[1], place)


def main() -> int:
    """Index, ask, and print the share of questions whose document is among the first five."""
    dice = random.Random(5)
    data = Path(os.environ.get("MLX_SIDECAR_DATA_DIR", Path.home() / ".cache" / "mlx-sidecar-dev" / "data"))
    given = list(documents(dice))
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
        for la in PLACES:
            asked = [i for i, row in enumerate(given) if row[1] == la][:20]
            hits = {"by meaning": 0, "by words": 0, "both": 0}
            for i, vector in zip(asked, embed([given[i][3] for i in asked]), strict=True):
                trusted = ranking.trust("starter-embedding", given[i][3])
                near = store.near("starter-embedding", vector, 60)
                worded = store.with_words(given[i][3], 60)
                for name, order in (("by meaning", (near, [])), ("by words", ([], worded)), ("both", (near, worded))):
                    best = ranking.fused(given[i][3], *order, trusted)[:5]
                    hits[name] += any(int(key[0], 16) == i for key, _, _ in best)
            print(f"{la}: " + ", ".join(f"{name} {count} of {len(asked)}" for name, count in hits.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
