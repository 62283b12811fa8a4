"""Codex and Claude Code from npm, each in one real session: the model calls a tool, the client carries it out.

The configuration is what ``mlx-sidecar connect`` writes; the model is a scripted one, whose weights say the call and
then, only where the conversation holds the tool's output, the last words. ``make agents`` installs both clients (800
MB); without them these tests are skipped.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sidecar.cli import connect
from tests.support import node
from tests.support.scripted_model import Script, scripted_model, tool_call
from tests.support.servers import Sidecar, sidecar

SOURCE = Path(__file__).with_name("agents")
SECRET, OTHER = (f"{word} {secrets.token_hex(4)}" for word in ("plum", "pear"))
"""What stands in files alone: no client and no prompt can know it."""


@pytest.fixture(scope="module")
def clients() -> Path:
    folder = node.folder_of(SOURCE)
    if os.environ.get("MLX_SIDECAR_AGENTS"):
        return node.installed(SOURCE)
    if not (folder / "ready").exists():
        pytest.skip("Codex and Claude Code are not installed here: make agents")
    return folder


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    for name, word in (("note", SECRET), ("other", OTHER)):
        (folder / f"{name}.txt").write_text(f"The word is {word}.\n")
    return folder


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory, data_dir: Path, clients: Path, work: Path) -> Iterator[Sidecar]:
    folder = tmp_path_factory.mktemp("agents")
    scripts = [
        Script("with a shell", tool_call("exec_command", {"cmd": "cat note.txt"})),
        Script("with tools", tool_call("Bash", {"command": f"cat {work / 'note.txt'}"})),
        Script("Chunk ID", f"The note says {SECRET}.", also=SECRET),  # Codex's words around a command's output
        Script(SECRET, tool_call("Read", {"file_path": str(work / "other.txt")})),
        Script(OTHER, f"The other note says {OTHER}."),
    ]
    scripted_model(folder / "models" / "scripted", scripts)
    with sidecar(folder / "server", "--model-dir", str(folder / "models"), data_dir=data_dir) as running:
        yield running


def session(folder: Path, home: Path, work: Path, program: str, *words: str) -> list[dict[str, Any]]:
    """Run a client to its end; return the events that it printed."""
    pattern = {"codex": "@openai/codex-*/vendor/*/bin/codex", "claude": "@anthropic-ai/claude-code-*/claude"}[program]
    (binary,) = (folder / "node_modules").glob(pattern)
    env = {"HOME": str(home), "PATH": os.environ["PATH"], connect.KEY: "none", "DISABLE_AUTOUPDATER": "1"}
    done = subprocess.run(
        [str(binary), *words],
        cwd=work,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.fixture
def home(tmp_path: Path, serving: Sidecar, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home in which ``connect --write`` has written both clients' configuration."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("CODEX_HOME", "CLAUDE_CONFIG_DIR"):
        monkeypatch.delenv(name, raising=False)
    for program in ("codex", "claude"):
        recipe = connect.PROGRAMS[program](connect.Server(url=serving.url, model="scripted", context=100_000))
        connect.write(recipe)
    return tmp_path


def test_codex_runs_a_command_and_answers_from_its_output(clients: Path, home: Path, work: Path) -> None:
    # Codex's own sandbox wants user namespaces and a home outside of /tmp; the command is the script's.
    flags = ("--profile", "mlx-sidecar", "--skip-git-repo-check", "--json", "--sandbox", "danger-full-access")
    events = session(clients, home, work, "codex", "exec", *flags, "Read note.txt with a shell.")
    items = [e["item"] for e in events if e["type"] == "item.completed"]
    (command,) = [i for i in items if i["type"] == "command_execution"]
    assert "cat note.txt" in command["command"]
    assert SECRET in command["aggregated_output"]
    assert command["exit_code"] == 0
    assert [i["text"] for i in items if i["type"] == "agent_message"] == [f"The note says {SECRET}."]
    assert events[-1]["type"] == "turn.completed"
    assert events[-1]["usage"]["input_tokens"] > 1000


def test_claude_code_runs_two_tools_and_answers_from_their_output(clients: Path, home: Path, work: Path) -> None:
    words = ("-p", "Read both notes with tools.", "--output-format", "stream-json", "--verbose")
    events = session(clients, home, work, "claude", *words, "--allowedTools", "Bash(cat:*)", "Read")
    content = [c for e in events if e["type"] in ("assistant", "user") for c in e["message"]["content"]]
    uses = [c for c in content if c["type"] == "tool_use"]
    assert [u["name"] for u in uses] == ["Bash", "Read"]
    results = [c for c in content if c["type"] == "tool_result"]
    assert [r["tool_use_id"] for r in results] == [u["id"] for u in uses]
    assert SECRET in str(results[0]["content"])
    assert OTHER in str(results[1]["content"])
    assert events[-1]["type"] == "result"
    assert events[-1]["result"] == f"The other note says {OTHER}."
    assert events[-1]["num_turns"] == 3
    assert not events[-1]["is_error"]
