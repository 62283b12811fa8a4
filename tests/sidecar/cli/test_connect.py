"""``mlx-sidecar connect``: what it prints is what the programs read, and what it writes loses nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar.cli import connect
from sidecar.cli.connect import ConnectError, Server

SERVER = Server(url="http://127.0.0.1:61000", model="qwen3-vl-4b", key="secret")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("CODEX_HOME", "CLAUDE_CONFIG_DIR", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_every_recipe_is_of_its_files_language_and_names_the_server() -> None:
    for name, make in connect.PROGRAMS.items():
        recipe = make(SERVER)
        assert SERVER.url in recipe.text, name
        assert SERVER.model in recipe.text or SERVER.model in recipe.note, name
        assert "secret" in recipe.text + recipe.note, name
        assert recipe.note, name
    codex = tomllib.loads(connect.PROGRAMS["codex"](SERVER).text)
    assert codex["model_providers"]["mlx-sidecar"]["wire_api"] == "responses"
    assert codex["model"] == SERVER.model
    assert "profiles" not in codex  # Codex 0.171 refuses to start with a profile that stands there
    (model,) = yaml.safe_load(connect.PROGRAMS["continue"](SERVER).text)["models"]
    assert model["apiBase"] == SERVER.api_url
    assert yaml.safe_load(connect.PROGRAMS["aider"](SERVER).text)["openai-api-base"] == SERVER.api_url


@pytest.mark.parametrize("name", ["claude", "opencode", "zed"])
def test_json_is_joined_and_the_old_file_kept(name: str, home: Path) -> None:
    recipe = connect.PROGRAMS[name](SERVER)
    assert recipe.path is not None
    assert connect.write(recipe) is None
    assert json.loads(recipe.path.read_text()) == recipe.document
    assert recipe.path.stat().st_mode & 0o077 == 0
    mine: dict[str, Any] = {"theme": "ÿ", "env": {"MINE": "1"}, "provider": {"other": {}}, "language_models": {"x": 1}}
    recipe.path.write_text(json.dumps(mine))
    recipe.path.chmod(0o640)
    copy = connect.write(recipe)
    assert copy is not None
    assert json.loads(copy.read_text()) == mine
    joined = json.loads(recipe.path.read_text())
    assert joined["theme"] == "ÿ"
    assert joined["env"]["MINE"] == "1"
    assert joined["provider"]["other"] == {}
    assert recipe.path.stat().st_mode & 0o777 == 0o640
    assert SERVER.url in recipe.path.read_text()
    assert not list(recipe.path.parent.glob(".*"))


def test_lines_stand_in_a_block_that_a_later_call_replaces(home: Path) -> None:
    path = home / ".aider.conf.yml"
    path.write_text("dark-mode: true\n")
    other = Server(url="http://127.0.0.1:62000", model="starter")
    connect.write(connect.PROGRAMS["aider"](SERVER))
    connect.write(connect.PROGRAMS["aider"](other))
    found = yaml.safe_load(path.read_text())
    assert found["dark-mode"] is True
    assert found["openai-api-base"] == "http://127.0.0.1:62000/v1"
    assert path.read_text().count("begin") == 1
    for server in (SERVER, other):
        connect.write(connect.PROGRAMS["codex"](server))
    profile = tomllib.loads((home / ".codex" / "mlx-sidecar.config.toml").read_text())
    assert profile["model_providers"]["mlx-sidecar"]["base_url"] == "http://127.0.0.1:62000/v1"
    assert profile["model"] == "starter"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("zed", '{\n  // a comment\n  "theme": "x"\n}'),
        ("claude", "[1]"),
        ("opencode", b"\xff\xfe"),
        ("codex", '[model_providers.mlx-sidecar]\nname = "by hand"\n'),
        ("codex", "# mlx-sidecar: begin\n"),
        ("codex", "[tools]\nx = 1\n"),
    ],
)
def test_what_can_not_be_changed_safely_stays_and_the_lines_are_shown(name: str, content: str | bytes) -> None:
    recipe = connect.PROGRAMS[name](SERVER)
    assert recipe.path is not None
    recipe.path.parent.mkdir(parents=True)
    raw = content if isinstance(content, bytes) else content.encode()
    recipe.path.write_bytes(raw)
    with pytest.raises(ConnectError, match="by hand") as caught:
        connect.write(recipe)
    assert SERVER.url in str(caught.value)
    assert recipe.path.read_bytes() == raw
    assert [p.name for p in recipe.path.parent.iterdir()] == [recipe.path.name]


def test_a_linked_file_is_written_where_it_is(home: Path) -> None:
    real = home / "dotfiles.json"
    real.write_text("{}")
    (home / ".claude").mkdir()
    (home / ".claude" / "settings.json").symlink_to(real)
    connect.write(connect.PROGRAMS["claude"](SERVER))
    assert (home / ".claude" / "settings.json").is_symlink()
    assert SERVER.url in real.read_text()


def test_the_command(home: Path) -> None:
    def run(*args: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "sidecar.entry", "connect", *args, "--state-dir", str(home / "state")]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    shown = run("claude", "--port", "61234")
    assert shown.returncode == 0, shown.stderr
    assert "http://127.0.0.1:61234" in shown.stdout
    assert not (home / ".claude").exists()
    written = json.loads(run("claude", "--write", "--json").stdout)
    assert json.loads(Path(written["path"]).read_text())["env"]["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:60316"
    assert run("continue", "--write").returncode == 1
    assert run("nothing").returncode == 2
