"""What a process that died halfway, or two requests at once, leave: nothing is there twice, nothing of nobody."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from host_api.app.data.chats import Sessions
from host_api.app.data.database import Database, Directory
from host_api.app.data.files import Files
from host_api.app.data.jobs import Jobs
from host_api.app.documents.vectors import Child, Vectors
from host_api.app.errors import ApiError

JOB = "a" * 32


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    directory = Directory(tmp_path / "data").open()
    found = directory.database()
    yield found
    found.close()
    directory.close()


def child(text: str, unit: str = "1", job: str = JOB) -> Child:
    return Child(job, unit, 0, 0, text, "", [0.1, 0.2, 0.3])


def tables(folder: Path) -> dict[str, int]:
    import lancedb

    store = lancedb.connect(folder)
    return {name: store.open_table(name).count_rows() for name in store.list_tables().tables}


def test_vectors_of_the_first_releases_are_taken_over_once_though_the_first_try_was_killed(tmp_path: Path) -> None:
    import lancedb

    rows = [
        {"key": f"{JOB}:{n}", "job": JOB, "unit": str(n), "text": f"bread {n}", "parent": 0, "vector": [0.1] * 3}
        for n in range(3)
    ]
    lancedb.connect(tmp_path).create_table("chunks_0123456789ab_3", rows)
    Vectors(tmp_path).with_words("bread", 5)
    # Killed after it had filled the new table and before it dropped the old one:
    lancedb.connect(tmp_path).create_table("chunks_0123456789ab_3", rows)
    assert len(Vectors(tmp_path).with_words("bread", 5)) == 3
    assert tables(tmp_path) == {"words_0123456789ab_3": 3}


def test_a_table_without_its_indexes_gets_them(tmp_path: Path) -> None:
    import lancedb

    vectors = Vectors(tmp_path)
    vectors.replace("m", JOB, "1", [child("bread")])
    table = lancedb.connect(tmp_path).open_table(next(iter(tables(tmp_path))))
    for name in ("terms_idx", "key_idx"):
        table.drop_index(name)
    again = Vectors(tmp_path)
    assert [h.text for h in again.with_words("bread", 5)] == ["bread"]
    again.replace("m", JOB, "2", [child("cake", "2")])
    table.checkout_latest()
    assert {i.name for i in table.list_indices()} == {"terms_idx", "key_idx"}


def test_an_embedding_model_that_nothing_is_made_with_any_more_leaves_no_table(tmp_path: Path) -> None:
    vectors = Vectors(tmp_path)
    vectors.replace("old", JOB, "1", [child("bread")])
    vectors.replace("old", JOB, "2", [child("cake", "2")])
    vectors.replace("new", JOB, "1", [child("bread")])
    assert sorted(tables(tmp_path).values()) == [1, 1]
    vectors.replace("new", JOB, "2", [child("cake", "2")])
    assert list(tables(tmp_path).values()) == [2]
    assert [h.text for h in vectors.with_words("cake", 5)] == ["cake"]
    vectors.remove(JOB)
    assert tables(tmp_path) == {}
    assert vectors.with_words("cake", 5) == []


def test_a_chunk_of_a_task_removed_meanwhile_is_not_stored(tmp_path: Path) -> None:
    vectors = Vectors(tmp_path)
    vectors.replace("m", JOB, "1", [child("bread")], lambda: False)
    assert tables(tmp_path) == {}


def test_files_that_belong_to_nothing_go_at_the_next_start(tmp_path: Path, database: Database) -> None:
    uploads, pictures = Files(tmp_path / "files"), Files(tmp_path / "pictures")
    jobs, sessions = Jobs(database, uploads), Sessions(database, pictures)
    job, _ = jobs.add("tag", "a.txt", b"kept", {})
    uploads.put(b"its task was never written down")
    (tmp_path / "files" / f"{job.content_hash}.1234.new").write_bytes(b"half")
    shown = pictures.put(b"a picture")
    pictures.put(b"asked of a state that was gone")
    part = {"type": "file", "mediaType": "image/png", "url": f"chat/files/{shown}"}
    sessions.begin("s", {"id": "m", "role": "user", "parts": [part]}, None, turn_id="a")
    assert (jobs.sweep(), sessions.sweep()) == (2, 1)
    assert jobs.content(job) == b"kept"
    assert [p.name for p in (tmp_path / "pictures").iterdir()] == [shown]


def test_a_file_removed_as_it_is_uploaded_again_is_kept(tmp_path: Path, database: Database) -> None:
    class Late(Files):
        """Another request removes the only task that has the file, just after this one found it there."""

        def put(self, content: bytes) -> str:
            digest = super().put(content)
            if first is not None and not removed:
                removed.append(True)
                jobs.remove(first.id)
            return digest

    removed: list[bool] = []
    first: Any = None
    jobs = Jobs(database, Late(tmp_path / "files"))
    first, _ = jobs.add("tag", "a.txt", b"content", {})
    jobs.cancel(first.id)
    again, new = jobs.add("tag", "a.txt", b"content", {"vocabulary": ["x"]})
    assert (new, removed) == (True, [True])
    assert jobs.content(again) == b"content"


def test_a_question_about_a_picture_deleted_meanwhile_is_refused(tmp_path: Path, database: Database) -> None:
    sessions = Sessions(database, Files(tmp_path / "pictures"))
    part = {"type": "file", "mediaType": "image/png", "url": f"chat/files/{'0' * 64}"}
    with pytest.raises(ApiError) as gone:
        sessions.begin("s", {"id": "m", "role": "user", "parts": [part]}, None, turn_id="a")
    assert (gone.value.status_code, gone.value.code) == (409, "file_gone")
    assert sessions.all() == []


def test_a_removal_that_was_killed_halfway_leaves_a_task_that_is_made_anew(tmp_path: Path, database: Database) -> None:
    jobs = Jobs(database, Files(tmp_path / "files"))
    job, _ = jobs.add("index", "a.pdf", b"content", {})
    claimed = jobs.claim("me", 3)
    assert claimed is not None
    with pytest.raises(ApiError) as running:
        jobs.forget_models(job.id)
    assert running.value.status_code == 409
    jobs.finish_unit(job.id, "1", {"read": True})
    jobs.finish_unit(job.id, "1", {"children": 3}, "minilm")
    jobs.cancel(job.id)
    jobs.forget_models(job.id)
    jobs.again(job.id)
    assert jobs.units(job.id, "minilm") == {}
    assert jobs.units(job.id) == {"1": {"read": True}}
