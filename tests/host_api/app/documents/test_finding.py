"""Chunks that know where they are, words of any language, and one order out of two."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from host_api.app.documents import chunks, ranking, terms
from host_api.app.documents.content import Block, Kind, Page
from host_api.app.documents.deciding import believed
from host_api.app.documents.languages import language_of
from host_api.app.documents.tagger import merged, spread
from host_api.app.documents.vectors import Child, Hit, Vectors

JOBS = [f"{i:032x}" for i in range(20)]


def child(job: str, text: str, vector: list[float] | None = None, unit: str = "1") -> Child:
    return Child(job, unit, 0, 0, text, "", vector or [random.Random(text).random() for _ in range(8)])


def test_a_parent_knows_its_headings_rows_and_pictures() -> None:
    rows = tuple((f"item {i}", str(i)) for i in range(60))
    page = Page(
        3,
        (
            Block(Kind.HEADING, "Storage", level=2),
            Block(Kind.TEXT, "The flour is dry."),
            Block(Kind.PICTURE, "A sack", picture=1),
            Block(Kind.TEXT, "After the picture."),
            Block(Kind.HEADING, "Prices", level=2),
            Block(Kind.TABLE, rows=(("Name", "Number"), *rows), first_row=10),
        ),
        (b"png",),
        path=("Chapter one",),
    )
    first, *rest = chunks.build(page, ["a brown sack"])
    assert first.headings == ("Chapter one", "Storage")
    assert first.text == "Storage\nThe flour is dry.\n[Picture 1: A sack. a brown sack]\nAfter the picture."
    assert [c.picture for c in first.children] == [0, 1, 0]
    assert {p.headings for p in rest} == {("Chapter one", "Prices")}
    found = [c for p in rest for c in p.children if c.rows]
    lines = [line for c in found for line in c.text.split("\n")]
    assert lines[1:] == [f"Name: item {i}; Number: {i}" for i in range(60)]  # none torn, none twice
    assert found[0].rows is not None
    assert found[0].rows[0] == 10
    assert found[-1].rows is not None
    assert found[-1].rows[1] == 70
    assert all(chunks.weight(c.text) <= chunks.CHILD for c in found)


def test_chinese_pieces_are_half_as_long_and_end_at_sentences() -> None:
    pieces = chunks.split("今天天气很好我们去公园散步。" * 60, chunks.CHILD, 0)
    assert all(p.endswith("。") and len(p) <= 200 for p in pieces)
    assert "".join(pieces) == "今天天气很好我们去公园散步。" * 60


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("苹果汁的价格是五元", "苹果 价格"),
        ("苹果汁的价格是五元", "果汁"),
        ("東京タワーの高さは333メートル", "タワーの高さ"),
        ("서울의 날씨가 좋다", "날씨"),
        ("Die Brandschutzverordnung gilt", "Verordnung zum Brandschutz"),
        ("Grüße aus Köln", "grusse KOLN"),
        ("The harvests were good", "harvest"),
        ("ราคาแอปเปิ้ล", "แอปเปิ้ล"),
        ("Contract ABC-123 of May", "abc-123"),
        ("ＡＢＣ ﬁle", "abc file"),
        ("今天\n天气", "天天"),
    ],
)
def test_words_are_found_whatever_the_language(tmp_path: Path, text: str, query: str) -> None:
    store = Vectors(tmp_path / "v")
    store.replace("m", JOBS[0], "1", [child(JOBS[0], text)])
    store.replace("m", JOBS[1], "1", [child(JOBS[1], "Something else entirely, 完全不同")])
    assert [h.text for h in store.with_words(query, 5)] == [text]


def test_words_without_a_subject_find_nothing(tmp_path: Path) -> None:
    store = Vectors(tmp_path / "v")
    store.replace("m", JOBS[0], "1", [child(JOBS[0], "the dog is in the house")])
    assert store.with_words("what is in the", 5) == []
    assert store.with_words("'; DROP TABLE x --", 5) == []
    assert terms.words("") == []


def test_a_stretch_without_spaces_begins_after_any_other_word() -> None:
    assert terms.words("1950年就贵阳 iPhone手机 A4纸 3.5公斤") == [
        *("1950", "年就", "就贵", "贵阳", "iphone", "手机", "a4", "纸", "3.5", "公斤"),
    ]


def test_a_unit_is_replaced_removed_and_found_by_words_whatever_its_model(tmp_path: Path) -> None:
    store = Vectors(tmp_path / "v")
    store.replace("old", JOBS[0], "1", [child(JOBS[0], "dragon")])
    store.replace("old", JOBS[1], "1", [child(JOBS[1], "castle")])
    store.replace("new", JOBS[0], "1", [child(JOBS[0], "dragon cave", [1.0] * 16)])
    assert [h.text for h in store.with_words("dragon", 5)] == ["dragon cave"]
    assert [h.text for h in store.with_words("castle", 5)] == ["castle"]
    assert [h.text for h in store.near("new", [1.0] * 16, 5)] == ["dragon cave"]
    store.replace("new", JOBS[0], "1", [])
    store.remove(JOBS[1])
    assert store.with_words("dragon castle", 5) == []


def test_many_writes_leave_few_files_and_lose_nothing(tmp_path: Path) -> None:
    store = Vectors(tmp_path / "v")
    for i in range(90):
        store.replace("m", JOBS[i % 20], str(i), [child(JOBS[i % 20], f"word{i} text", unit=str(i))])
    store.compact()
    for i in (0, 41, 89):
        assert [h.unit for h in store.with_words(f"word{i}", 5)] == [str(i)]
    assert len(store.near("m", [0.5] * 8, 100)) == 90
    files = sum(p.is_file() for p in (tmp_path / "v").rglob("*"))
    assert files < 900  # without compaction each write leaves about a dozen


def test_a_store_of_the_first_releases_is_taken_over(tmp_path: Path) -> None:
    import lancedb
    import pyarrow as pa

    db = lancedb.connect(tmp_path / "v")
    columns = [pa.field(c, pa.string()) for c in ("key", "job", "unit", "text")]
    vector = pa.field("vector", pa.list_(pa.float32(), 8))
    table = db.create_table(
        "chunks_0123456789ab_8", schema=pa.schema([*columns, pa.field("parent", pa.int32()), vector])
    )
    row = {"key": f"{JOBS[0]}:1", "job": JOBS[0], "unit": "1", "text": "苹果汁", "parent": 0, "vector": [0.5] * 8}
    table.add([row])
    store = Vectors(tmp_path / "v")
    assert [h.text for h in store.with_words("苹果", 5)] == ["苹果汁"]


def hit(job: int, words: str) -> Hit:
    return Hit(JOBS[job], "1", 0, 0, words, terms.indexed(words))


def test_two_orders_become_one() -> None:
    dragon, castle, bread = hit(0, "dragon mountain cave"), hit(1, "castle"), hit(2, "bread")
    found = ranking.fused("dragon mountain", [castle, dragon], [dragon, bread])
    assert [key[0] for key, _, _ in found] == [JOBS[0], JOBS[1], JOBS[2]]
    assert found[0][1] == round((1 / 22 + 1 / 21) / (2 / 21), 4)
    # One word of eight by chance is worth little beside meaning.
    question = "monster hills village night sound windows doors bread"
    assert ranking.fused(question, [castle], [bread])[0][2] is castle
    # A rare word that one chunk alone has counts fully, however many words the question has.
    rest = [Hit(JOBS[3 + i % 17], str(i), 0, 0, "village", "village", words=4.0) for i in range(30)]
    rare = Hit(JOBS[2], "1", 0, 0, "z815", "z815", words=9.0)
    found = ranking.fused("the z815 of the village on hills", [castle], [rare, *rest])
    assert {h.text for _, _, h in found[:2]} == {"castle", "z815"}


def test_the_two_rare_words_of_a_question_go_before_all_its_common_ones() -> None:
    texts = [
        f"关于{place}的拖拉机的报告：于19{n}0年开始使用，每年费用为{n}元。" for n, place in enumerate("杭成西青洛厦")
    ]
    rest = [Hit(JOBS[n], "1", 0, 0, t, terms.indexed(t), words=14.8) for n, t in enumerate(texts)]
    table = "Thing: 拖拉机; Place: 昆明; Year: 1960; Cost: 170"
    wanted = Hit(JOBS[9], "1", 0, 0, table, terms.indexed(table), words=7.8)
    found = ranking.fused("昆明的拖拉机每年费用是多少？", [], [*rest, wanted])
    assert found[0][2] is wanted


@pytest.mark.parametrize(
    ("model", "query", "trusted"),
    [
        ("starter-embedding", "what does the bakery cost", 1.0),
        ("starter-embedding", "面包店的费用", ranking.FOREIGN),
        ("starter-embedding", "Was kostet in Fulda die Bäckerei?", ranking.FOREIGN),
        ("starter-embedding", "ABC-123", ranking.UNSURE),
        ("sentence-transformers/all-MiniLM-L6-v2", "où est la facture", ranking.FOREIGN),
        ("multilingual-embedding", "面包店的费用", 1.0),
        ("paraphrase-multilingual-MiniLM-L12-v2", "面包店的费用", 1.0),
        ("text-embedding-3-small", "面包店的费用", 1.0),
    ],
)
def test_an_order_by_meaning_counts_as_far_as_the_model_knows_the_language(
    model: str, query: str, trusted: float
) -> None:
    assert ranking.trust(model, query) == trusted


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("今天天气很好，我们去公园。", "Chinese"),
        ("これは日本語の文章です。", "Japanese"),
        ("오늘 날씨가 좋다", "Korean"),
        ("Der Hund ist nicht im Haus und das Wetter ist schön", "German"),
        ("The dog is not in the house", "English"),
        ("Le chien est dans la maison avec une amie", "French"),
        ("Сегодня хорошая погода", "Russian"),
        ("12345 67890", ""),
        ("Was kostet in Jena die Wasserleitung?", "German"),
        ("Wer hat in Celle die Prüfung gemacht?", "German"),
        ("Brot wird im Ofen gebacken.", "German"),
        ("Where can I find the invoice?", "English"),
        ("Combien coûte la voiture de mon père ?", "French"),
        ("¿Cuánto cuesta el pan?", "Spanish"),
        ("Quanto costa il pane?", "Italian"),
        ("Quanto custa o pão?", "Portuguese"),
        ("Hoeveel kost een fiets?", "Dutch"),
        ("Invoice 2024", ""),
    ],
)
def test_a_texts_language_is_told(text: str, language: str) -> None:
    assert language_of(text) == language


def test_tags_of_parts_become_one_list_with_the_users_own_words_first() -> None:
    answers = [["economy", "banks", "weather"], ["economy", "dogs"], ["invoices"]]
    text = "The economy and a Rechnung for the Steuerberater"
    assert merged(answers, text, ["Invoice", "Steuerberater", "Travel"]) == [
        "Invoice",
        "Steuerberater",
        "economy",
        "banks",
        "dogs",
        "weather",
    ]
    assert merged([["a"]], "", []) == ["a"]


def test_a_long_text_is_asked_about_in_parts_from_its_beginning_to_its_end() -> None:
    assert spread("short", 100, 8) == ["short"]
    text = "".join(f"{i:05d}" for i in range(20_000))
    parts = spread(text, 6000, 8)
    assert len(parts) == 8
    assert (parts[0], parts[-1]) == (text[:6000], text[-6000:])


def test_a_decision_counts_where_the_model_would_say_yes_or_no_at_all() -> None:
    def yes(share: float, mass: float) -> dict[str, object]:
        return {
            "type": "bool",
            "value": share >= 0.5,
            "probabilities": {"true": share, "false": 1 - share},
            "mass": mass,
        }

    results = {"a": yes(0.8, 0.9), "b": yes(0.95, 0.6), "c": yes(0.99, 0.3), "d": yes(0.6, 1.0), "e": None}
    assert believed(results) == ["b", "a"]
