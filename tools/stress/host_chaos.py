"""Kill the host service and the sidecar at random moments and compare what was acknowledged with what is there.

Windows that chat, upload documents to be indexed and texts to be tagged, cancel, delete, rename and add providers work
on one service, over and over, and write down what the service told them was done. Meanwhile the host, the sidecar or
both are killed (SIGKILL). After each death of the host its files are compared with what was written down, before it
starts again: a question that was taken is there once, an answer whose end was told is there whole, one that was cut off
is there but for its last two seconds, what was deleted stays deleted, a task that was taken is there once. At the end
every task must be done, each chunk of a document stored once, and nothing stored that belongs to nothing.

Upgrades are killed by themselves: a data directory of the first releases, with vectors of theirs, is opened and killed
on the way, until it opens; then everything must be in it once.

    python tools/stress/host_chaos.py --kills 160 --upgrades 40
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import socket
import sqlite3
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from tests.support import host_servers
from tests.support.documents import Colour, pdf
from tests.support.host_servers import HostProcess, host
from tests.support.servers import data_folder
from tools.stress.upgrade_chaos import upgrades

SAFE = 2.0  # seconds after which what a window was shown of an answer must survive
FILE = "host.sqlite3"


@dataclass
class Chat:
    """What a window knows of a conversation: its head, titles and the texts of turns that the service acknowledged."""

    id: str
    head: str | None = None
    title: str | None = None
    questions: dict[str, str] = field(default_factory=dict)
    finished: dict[str, str] = field(default_factory=dict)
    cut: dict[str, str] = field(default_factory=dict)  # answers cut off, but for their last seconds
    deleted: bool = False
    forgotten: bool = False  # a deletion that wasn't acknowledged: either is right


@dataclass
class Task:
    """A task that was taken; ``wanted`` is how it must end: done, cancelled, or gone (None: either)."""

    id: str
    kind: str
    word: str
    wanted: str | None = "done"


@dataclass
class Journal:
    """What was acknowledged, and what proved wrong."""

    chats: list[Chat] = field(default_factory=list)
    tasks: dict[str, Task] = field(default_factory=dict)
    providers: dict[str, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    answering: set[str] = field(default_factory=set)  # questions taken whose answers go on just now
    lock: threading.RLock = field(default_factory=threading.RLock)

    def blame(self, text: str) -> None:
        """Note that something is wrong."""
        with self.lock:
            self.wrong.append(text[:600])


class Window:
    """One client in a thread of its own; what it is amid when the service dies is simply tried again."""

    def __init__(self, journal: Journal, url: str, key: Callable[[], str], seed: int) -> None:
        self.journal = journal
        self.rng = random.Random(seed)
        self._url = url
        self._key = key
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self.stop.is_set():
            try:
                headers = {"authorization": f"Bearer {self._key()}"}
                with httpx.Client(base_url=self._url, timeout=60, headers=headers, trust_env=False) as http:
                    while not self.stop.is_set():
                        self.act(http)
            except (httpx.HTTPError, OSError):
                time.sleep(0.1)
            except Exception as exc:
                self.journal.blame(f"{type(self).__name__}: {type(exc).__name__}: {exc}")
                time.sleep(0.5)

    def act(self, http: httpx.Client) -> None:
        """Do one thing."""
        raise NotImplementedError

    def taken(self, answer: httpx.Response, *fine: int) -> bool:
        """Return whether a request was done; one that the service refuses for now is no fault."""
        if answer.is_success:
            return True
        if answer.status_code not in (409, 503, *fine):
            self.journal.blame(f"{answer.request.method} {answer.request.url.path}: {answer.status_code} {answer.text}")
        time.sleep(0.2)
        return False


class Chatter(Window):
    """Asks in three conversations, answers anew, stops, renames, deletes."""

    mine: list[Chat]

    def act(self, http: httpx.Client) -> None:
        """Ask, rename or delete."""
        self.mine = getattr(self, "mine", [])
        while len(self.mine) < 3:
            chat = Chat(uuid.uuid4().hex)
            self.mine.append(chat)
            with self.journal.lock:
                self.journal.chats.append(chat)
        chat = self.rng.choice(self.mine)
        done = self.rng.random()
        if chat.head and done < 0.06:
            self._delete(http, chat)
        elif chat.head and done < 0.14:
            title = f"title {uuid.uuid4().hex[:8]}"
            chat.title = None
            if self.taken(http.patch(f"/chat/sessions/{chat.id}", json={"title": title})):
                chat.title = title
        else:
            self._ask(http, chat)

    def _delete(self, http: httpx.Client, chat: Chat) -> None:
        chat.forgotten = True
        self.mine.remove(chat)
        if self.taken(http.delete(f"/chat/sessions/{chat.id}"), 404):
            chat.deleted = True
            self.journal.counts["chats deleted"] += 1

    def _ask(self, http: httpx.Client, chat: Chat) -> None:
        found = http.get(f"/chat/sessions/{chat.id}")
        if found.is_success:
            if found.json()["running"]:
                http.post(f"/chat/sessions/{chat.id}/stop")
            chat.head = found.json()["head"]
        elif chat.questions:
            self.journal.blame(f"chat {chat.id} is not there: {found.status_code}")
        said = f"Tell me of number {uuid.uuid4().hex[:6]}, please."
        message: dict[str, Any] = {"id": uuid.uuid4().hex, "role": "user", "parts": [{"type": "text", "text": said}]}
        body: dict[str, Any] = {
            "id": chat.id,
            "trigger": "submit-message",
            "messages": [message],
            "parent_id": chat.head,
        }
        shown: list[tuple[float, str]] = []
        turn = ""
        ended = False
        leave = time.monotonic() + self.rng.uniform(0.2, 8) if self.rng.random() < 0.2 else None
        try:
            with http.stream("POST", "/chat/agent-stream", json=body) as answer:
                if not answer.is_success:
                    answer.read()
                    self.taken(answer)
                    return
                chat.questions[str(message["id"])] = said
                self.journal.answering.add(said)
                self.journal.counts["questions taken"] += 1
                for line in answer.iter_lines():
                    if line == "data: [DONE]":
                        ended = True
                    elif line.startswith("data: {"):
                        chunk = json.loads(line[6:])
                        turn = chunk.get("messageId", turn) if chunk["type"] == "start" else turn
                        if chunk["type"] == "text-delta":
                            shown.append((time.monotonic(), chunk["delta"]))
                    if leave is not None and time.monotonic() > leave:
                        return  # the answer goes on without this window
        finally:
            self.journal.answering.discard(said)
            now = time.monotonic()
            if turn and ended:
                chat.finished[turn] = "".join(text for _, text in shown)
                self.journal.counts["answers ended"] += 1
            elif turn:
                chat.cut[turn] = "".join(text for at, text in shown if at < now - SAFE)
                self.journal.counts["answers cut off"] += 1
        chat.head = turn or chat.head


class Uploader(Window):
    """Has documents indexed and texts tagged, the same one twice now and then, and cancels and forgets some."""

    def act(self, http: httpx.Client) -> None:
        tag = self.rng.random() < 0.4
        word = "zq" + "".join(self.rng.choices("bcdfghjklm", k=10))
        kind = "tag" if tag else "index"
        path = f"/tasks/{kind}"

        def send() -> httpx.Response:
            if tag:
                text = f"The word {word} stands here. Bread is baked from flour, water and yeast."
                return http.post(path, json={"text": text, "name": f"{word}.txt"})
            pages: list[tuple[str, list[Colour]]] = [
                (f"Page {n} tells of {word} and of the number {n}.", []) for n in range(1, 4)
            ]
            return http.post(path, files={"file": (f"{word}.pdf", pdf(pages))})

        try:
            answer = send()
        except httpx.HTTPError:
            # It may have been taken: asked again, it must be the same task.
            time.sleep(1)
            answer = send()
        if not self.taken(answer):
            return
        task = Task(answer.json()["id"], kind, word)
        self.journal.counts[f"{kind} tasks taken"] += 1
        with self.journal.lock:
            self.journal.tasks[task.id] = task
        done = self.rng.random()
        if done < 0.3:
            again = send()
            if again.is_success and again.json()["id"] != task.id:
                self.journal.blame(f"the same upload is two tasks: {task.id}, {again.json()['id']}")
        elif done < 0.45:
            task.wanted = None
            time.sleep(self.rng.uniform(0, 1))
            said = http.post(f"/tasks/{task.id}/cancel")
            if self.taken(said) and said.json()["state"] in ("done", "cancelled"):
                task.wanted = said.json()["state"]
            if self.rng.random() < 0.5:
                before, task.wanted = task.wanted, None
                task.wanted = "gone" if self.taken(http.delete(f"/tasks/{task.id}"), 404) else before
        while not self.stop.is_set() and http.get("/status").json()["tasks"].get("queued", 0) > 4:
            time.sleep(0.3)


class Provider(Window):
    """Adds providers with keys now and then."""

    def act(self, http: httpx.Client) -> None:
        name = uuid.uuid4().hex
        body = {"name": name, "base_url": f"http://127.0.0.1:9/{name}", "api_key": f"sk-{name}"}
        made = http.post("/models/providers", json=body)
        if self.taken(made):
            with self.journal.lock:
                self.journal.providers[made.json()["id"]] = name
            self.journal.counts["providers added"] += 1
        self.stop.wait(2.0)


def look(journal: Journal, data: Path) -> None:
    """Compare the files of a dead service with what was acknowledged."""
    with contextlib.closing(sqlite3.connect(data / FILE)) as db:
        if (found := db.execute("PRAGMA quick_check").fetchone()[0]) != "ok":
            journal.blame(f"the database is damaged: {found}")
        if db.execute("PRAGMA foreign_key_check").fetchone():
            journal.blame("a row refers to nothing")
        rows = db.execute("SELECT session_id, id, role, state, parts, position FROM chatturn").fetchall()
        turns = {(r[0], r[1]): (r[2], r[3], json.loads(r[4])) for r in rows}
        places = Counter((r[0], r[5]) for r in rows)
        chunks: dict[tuple[str, str], str] = {}
        for session, turn, text in db.execute("SELECT session_id, turn_id, chunks FROM chatchunk ORDER BY position"):
            said = "".join(c["delta"] for c in json.loads(text) if c["type"] == "text-delta")
            chunks[session, turn] = chunks.get((session, turn), "") + said
        titles = dict(db.execute("SELECT id, title FROM chatsession").fetchall())
        jobs = dict(db.execute("SELECT id, state FROM job").fetchall())
        providers = dict(db.execute("SELECT id, name FROM provider").fetchall())
    if doubled := [place for place, count in places.items() if count > 1]:
        journal.blame(f"two turns have one place: {doubled[:3]}")
    with journal.lock:
        for chat in journal.chats:
            _compare(journal, chat, titles, turns, chunks)
        for task in journal.tasks.values():
            state = jobs.get(task.id)
            if (task.wanted == "gone") != (state is None) and task.wanted is not None:
                journal.blame(f"{task.kind} task {task.id} is {state}, should be {task.wanted}")
            if task.wanted == "cancelled" and state != "cancelled":
                journal.blame(f"{task.kind} task {task.id} was cancelled and is {state}")
        for provider, name in journal.providers.items():
            if providers.get(provider) != name:
                journal.blame(f"provider {name} is lost")
        stored = json.loads((data / "keys.json").read_text()) if (data / "keys.json").exists() else {}
        if lost := [n for i, n in journal.providers.items() if f"sk-{n}" not in json.dumps(stored.get(i, stored))]:
            journal.blame(f"{len(lost)} keys of providers are lost")


def _compare(
    journal: Journal, chat: Chat, titles: dict[str, str], turns: dict[Any, Any], chunks: dict[Any, str]
) -> None:
    if chat.deleted:
        if chat.id in titles:
            journal.blame(f"chat {chat.id} was deleted and is there")
        return
    if chat.forgotten:
        return
    if chat.title is not None and titles.get(chat.id) != chat.title:
        journal.blame(f"the title {chat.title} is {titles.get(chat.id)}")
    for name, said in chat.questions.items():
        role, _, parts = turns.get((chat.id, name), ("", "", []))
        if role != "user" or [p.get("text") for p in parts] != [said]:
            journal.blame(f"question {name} is {role} {parts}")
    for name, said in chat.finished.items():
        _, state, parts = turns.get((chat.id, name), ("", "", []))
        if state == "running" or _text(parts) != said:
            journal.blame(f"an answer that ended is {state}: {_text(parts)!r}, should be {said!r}")
    for name, said in chat.cut.items():
        _, state, parts = turns.get((chat.id, name), ("", "", []))
        kept = _text(parts) if state != "running" else chunks.get((chat.id, name), "")
        if not kept.startswith(said):
            journal.blame(f"of an answer cut off ({state}) {kept!r} is there, {said!r} was shown")


def _text(parts: list[Any]) -> str:
    return "".join(p["text"] for p in parts if p["type"] == "text")


def settle(journal: Journal, running: HostProcess, patience: float) -> None:
    """Wait for every task, then compare what is found and stored with it."""
    end = time.monotonic() + patience
    with running.client() as http:
        while (waiting := http.get("/status").json()["tasks"]).get("queued", 0) + waiting.get("running", 0):
            if time.monotonic() > end:
                journal.blame(f"tasks are not done in {patience:g} s: {waiting}")
                break
            time.sleep(0.5)
        for task in journal.tasks.values():
            answer = http.get(f"/tasks/{task.id}")
            state = answer.json()["state"] if answer.is_success else "gone"
            if task.wanted is not None and state != task.wanted:
                journal.blame(f"{task.kind} task {task.word} is {state}, should be {task.wanted}: {answer.text[:300]}")
            if state == "done" and task.kind == "index":
                hits = http.post("/search", json={"query": task.word, "limit": 8}).json()
                pages = sorted(h["page"] for h in hits if h["document"] == f"{task.word}.pdf")
                if pages != [1, 2, 3]:
                    journal.blame(f"{task.word}: pages {pages} are found")
            journal.counts[f"{task.kind} tasks {state}"] += 1


def stored(journal: Journal, data: Path) -> None:
    """Compare the vectors and files with the tasks they belong to."""
    import lancedb

    with contextlib.closing(sqlite3.connect(data / FILE)) as db:
        wanted: Counter[str] = Counter()
        for job, key, model, text in db.execute("SELECT job_id, key, model, data FROM jobunit").fetchall():
            if model:
                wanted[f"{job}:{key}"] += json.loads(text)["children"]
        jobs = {r[0] for r in db.execute("SELECT id FROM job")}
        hashes = {r[0] for r in db.execute("SELECT content_hash FROM job")}
    store = lancedb.connect(data / "vectors")
    keys = [row["key"] for n in store.list_tables().tables for row in store.open_table(n).to_arrow().to_pylist()]
    for key, count in Counter(keys).items():
        if key.partition(":")[0] not in jobs:
            journal.blame(f"{count} chunks of {key}, which is no task, are stored")
        elif wanted[key] and count != wanted[key]:
            journal.blame(f"{count} chunks of {key} are stored, should be {wanted[key]}")
    for key in set(wanted) - set(keys):
        journal.blame(f"no chunk of {key} is stored")
    if orphans := [p.name for p in (data / "files").iterdir() if p.name not in hashes]:
        journal.blame(f"{len(orphans)} files belong to no task: {orphans[:2]}")
    journal.counts["chunks stored"] = len(keys)


def _wait_for_work(journal: Journal, events: int, patience: float) -> None:
    """Wait until that much was acknowledged, so that a busy machine's kills meet work too."""
    before, end = journal.counts.total(), time.monotonic() + patience
    while journal.counts.total() < before + events and time.monotonic() < end:
        time.sleep(0.02)


def _wait_for_an_answer(journal: Journal, patience: float) -> None:
    """Wait until an answer goes on in some window."""
    end = time.monotonic() + patience
    while not journal.answering and time.monotonic() < end:
        time.sleep(0.01)


def run(folder: Path, data_dir: Path, *, kills: int, seed: int) -> Journal:
    """Kill ``kills`` times; return what was found."""
    rng = random.Random(seed)
    journal = Journal()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    host_servers.START = 300.0  # a busy machine's starts are no fault
    flags = ("--port", str(port), "--job-attempts", "1000", "--max-answer", "60", "--grace-time", "60")
    key = folder / "data" / "key"
    windows: list[Window] = [
        kind(journal, f"http://127.0.0.1:{port}", lambda: key.read_text().strip(), seed + i)
        for i, kind in enumerate((Chatter, Chatter, Uploader, Provider))
    ]
    done = 0
    while done < kills:
        with host(folder, *flags, data_dir=data_dir, keep_sidecar=True) as running:
            if not done:
                running.wait_seeded()
                for window in windows:
                    window.thread.start()
            while done < kills:
                chance = rng.random()
                if chance < 0.8:  # the others die as they start
                    _wait_for_work(journal, 2, 30.0)
                if chance < 0.65:  # amid an answer
                    _wait_for_an_answer(journal, 20.0)
                    time.sleep(rng.uniform(0, 0.8))
                else:
                    time.sleep(rng.uniform(0, 3))
                victim = rng.choice(("host", "host", "sidecar", "both"))
                if journal.answering:
                    journal.counts["kills amid an answer"] += 1
                (folder / "state" / "restarts.json").unlink(missing_ok=True)  # or its pauses would grow to 30 s
                if victim != "host":
                    with contextlib.suppress(OSError, IndexError, ValueError):
                        os.kill(int((folder / "state" / "sidecar.pid").read_text().split()[0]), signal.SIGKILL)
                        journal.counts["kills of the sidecar"] += 1
                        done += 1
                if victim != "sidecar":
                    running.process.kill()
                    running.process.wait(10)
                    journal.counts["kills of the host"] += 1
                    done += 1
                    break
        time.sleep(0.3)  # windows note what came to them last
        look(journal, folder / "data")
        print(f"{done} kills, {len(journal.wrong)} wrong, {dict(journal.counts)}", flush=True)
    with host(folder, *flags, data_dir=data_dir) as running:
        for window in windows:
            window.stop.set()
        for window in windows:
            window.thread.join(60)
        settle(journal, running, 300)
        running.stop()
    look(journal, folder / "data")
    stored(journal, folder / "data")
    return journal


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=160)
    parser.add_argument("--upgrades", type=int, default=40)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    args = parser.parse_args()
    data = data_folder()
    begun = time.monotonic()
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="host-chaos-") as folder:
        if args.kills:
            found = run(Path(folder) / "run", data, kills=args.kills, seed=args.seed)
            print(f"seed {args.seed}: {dict(found.counts)}")
            wrong += found.wrong
        if args.upgrades:
            told, faults = upgrades(Path(folder) / "upgrades", args.upgrades, args.seed)
            print(told)
            wrong += faults
    print(f"{len(wrong)} wrong in {time.monotonic() - begun:.0f} s")
    for line in wrong[:40]:
        print(line)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
