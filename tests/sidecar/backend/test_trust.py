"""Nothing of a model is executed and nothing fetched: at pull, import and load, whatever the folder asks for."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sidecar.backend import loader
from sidecar.errors import LoadError
from sidecar.models import importing
from sidecar.models.downloads import PullError
from sidecar.models.downloads import hub as hub_api
from sidecar.models.downloads.hub import Endpoint
from tests.support.fake_hub import FakeHub
from tests.support.models import qwen3_vl
from tests.support.pulls import fetch

MARKER = "written.txt"


def code(folder: Path) -> str:
    """Python that shows that it ran, and that would do as a model, a tokenizer or a processor."""
    return (
        f"open({str(folder / MARKER)!r}, 'w').write('ran')\n"
        "class Tok:\n    @classmethod\n    def from_pretrained(cls, *a, **k):\n        return cls()\n"
        "Model = ModelConfig = Tok\n"
    )


def plant(folder: Path, kind: str) -> None:
    """Put what a hostile model would have into a whole one."""
    for name in ("LICENSE.py", "license_tok.py", "modeling.py", "NOTICE.so"):
        (folder / name).write_text(code(folder))
    config = json.loads((folder / "config.json").read_text())
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    processor = json.loads((folder / "preprocessor_config.json").read_text())
    prefix = "evil/repo--" if kind == "hub" else ""
    if kind == "model_file":
        config["model_file"] = "LICENSE.py"
    else:
        config["auto_map"] = {"AutoConfig": f"{prefix}modeling.Model", "AutoModel": f"{prefix}modeling.Model"}
        tokenizer["auto_map"] = {"AutoTokenizer": [f"{prefix}license_tok.Tok", f"{prefix}license_tok.Tok"]}
        processor["auto_map"] = {
            "AutoProcessor": f"{prefix}license_tok.Tok",
            "AutoImageProcessor": f"{prefix}license_tok.Tok",
        }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return qwen3_vl(tmp_path_factory.mktemp("whole") / "tiny")


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture
def calls() -> Iterator[tuple[str, list[str]]]:
    """A hub's address, and what was asked of it."""
    seen: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def take() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                seen.append(str(connection.recv(200)[:100]))
                connection.close()

        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", seen
        server.shutdown(socket.SHUT_RDWR)
    thread.join(5)


LOAD = """
import json, sys
from pathlib import Path
from sidecar.backend import loader
answers = {}
for model_type in sys.argv[2:]:
    file = Path(sys.argv[1], "config.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_type": model_type}))
    try:
        loaded = loader.load(file.parent, lambda _: None)
        answers[model_type] = {"kind": loaded.kind, "sees": loaded.sees}
    except Exception as exc:
        answers[model_type] = {"error": str(exc)}
print(json.dumps(answers))
"""


@pytest.mark.parametrize("kind", ["local", "hub"])
def test_an_auto_map_is_a_note_that_nobody_reads(folder: Path, calls: tuple[str, list[str]], kind: str) -> None:
    """A fresh program loads the folder as families whose processors ask for its code; a hub is within reach."""
    plant(folder, kind)
    env = os.environ | {"HF_ENDPOINT": calls[0], "HF_HUB_OFFLINE": "0", "HF_HOME": str(folder.parent / "hf")}
    types = ["qwen3_vl", "glm4v", "gemma4", "molmo", "internvl_chat", "got", "kimi_vl", "phi3_v"]
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(folder), *types],
        env=env,
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
    )
    answers: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert not (folder / MARKER).exists()
    assert not calls[1], "the hub was asked"
    assert answers.pop("qwen3_vl") == {"kind": "chat", "sees": True}
    assert len(answers) == len(types) - 1
    for answer in answers.values():
        assert "can't be loaded" in answer["error"]  # its weights are another family's


def test_a_processor_of_a_family_whose_code_is_asked_for_does_not_run(
    folder: Path, calls: tuple[str, list[str]]
) -> None:
    """The tokenizers and processors themselves, which mlx-vlm tells to trust: nothing else is in the way."""
    plant(folder, "local")
    program = (
        "import sys, importlib\nfrom sidecar.backend import processors, trust\n"
        "import mlx_vlm.utils\ntrust.harden(); processors.collect_claims()\n"
        "from transformers import AutoTokenizer, AutoProcessor, AutoConfig, AutoImageProcessor\n"
        "tried = 0\n"
        "for where in (sys.argv[1], 'evil/repo'):\n"
        "  for kind in (AutoTokenizer, AutoProcessor, AutoConfig, AutoImageProcessor):\n"
        "    for trusted in (True, None, False):\n"
        "      tried += 1\n"
        "      try: kind.from_pretrained(where, trust_remote_code=trusted)\n"
        "      except Exception as exc: pass\n"
        "print(tried)\n"
    )
    env = os.environ | {"HF_ENDPOINT": calls[0], "HF_HUB_OFFLINE": "0", "HF_HOME": str(folder.parent / "hf")}
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)], env=env, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.split()[-1] == "24"
    assert not (folder / MARKER).exists()
    assert not calls[1], "the hub was asked"


def test_without_the_hardening_the_code_would_run(folder: Path) -> None:
    """What is planted is no dud: transformers runs it when it may."""
    plant(folder, "local")
    program = (
        "import sys\nfrom transformers import AutoTokenizer\n"
        "try: AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)\nexcept Exception: pass\n"
    )
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder.parent / "hf")}
    subprocess.run([sys.executable, "-c", program, str(folder)], env=env, capture_output=True, timeout=120, check=True)
    assert (folder / MARKER).exists()


TEMPLATES = """
import ast, importlib, json, pathlib, sys
from types import SimpleNamespace
import mlx_vlm.models
from sidecar.backend import trust
marker = pathlib.Path(sys.argv[1])
root = pathlib.Path(mlx_vlm.models.__path__[0])
kinds = {}
for file in root.rglob("*.py"):
    if "jinja2" in (text := file.read_text()):
        module = importlib.import_module("mlx_vlm.models." + ".".join(file.relative_to(root).with_suffix("").parts))
        names = [n.name for n in ast.parse(text).body if isinstance(n, ast.ClassDef) and "jinja2" in ast.unparse(n)]
        kinds |= {f"{module.__name__}.{name}": getattr(module, name) for name in names}
answers = []
for _ in range(2):
    for name, kind in kinds.items():
        for template in ("{{ cycler.__init__.__globals__.os.system('touch ' ~ marker) }}", "{{ messages[0].content }}"):
            it = SimpleNamespace(chat_template=template, tokenizer=None)
            try:
                said = kind.apply_chat_template(it, [{"content": "hi"}], marker=str(marker))
            except Exception as exc:
                said = type(exc).__name__
            answers.append([name, said, marker.exists()])
            marker.unlink(missing_ok=True)
    trust.harden()
print(json.dumps(answers))
"""


def test_no_familys_processor_renders_a_template_outside_the_sandbox(tmp_path: Path) -> None:
    """Whatever class of mlx-vlm reaches for Jinja itself: a template that would run a command doesn't; others work."""
    done = subprocess.run(
        [sys.executable, "-c", TEMPLATES, str(tmp_path / MARKER)],
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
    )
    answers = json.loads(done.stdout.splitlines()[-1])
    before, after = answers[: len(answers) // 2], answers[len(answers) // 2 :]
    assert ["0", True] in [answer[1:] for answer in before], "the template is a dud"
    assert {tuple(answer[1:]) for answer in after} == {("SecurityError", False), ("hi", False)}
    assert len(after) >= 4


def test_a_model_file_is_refused_at_load(folder: Path) -> None:
    plant(folder, "model_file")
    with pytest.raises(LoadError, match=r"model_file.*executes nothing"):
        loader.load(folder, lambda _: None)
    assert not (folder / MARKER).exists()


def test_a_tokenizer_that_is_code_alone_is_refused_at_load(folder: Path) -> None:
    plant(folder, "local")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(LoadError, match="its tokenizer is Python code of its own"):
        loader.load(folder, lambda _: None)
    assert not (folder / MARKER).exists()


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("kind", ["model_file", "local"])
def test_an_import_runs_nothing_and_copies_no_code(folder: Path, tmp_path: Path, kind: str, link: bool) -> None:
    plant(folder, kind)
    models = tmp_path / "models"
    if kind == "model_file":
        with pytest.raises(importing.ImportFailed, match="model_file"):
            importing.run(folder, models, link=link, progress=lambda *_: None)
        assert list(models.iterdir()) == []
    else:
        made = importing.run(folder, models, link=link, progress=lambda *_: None)
        if not link:
            assert {p.suffix for p in made.rglob("*") if p.is_file()} <= {".json", ".jinja", ".safetensors"}
    assert not (folder / MARKER).exists()


def files_of(folder: Path) -> dict[str, bytes | Path]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def test_a_pull_takes_no_code(folder: Path, tmp_path: Path) -> None:
    plant(folder, "local")
    (folder / "LICENSE").write_text("MIT")
    (folder / "NOTICE.md").write_text("of others")
    (folder / "weights.bin").write_bytes(b"pickled")
    cache = tmp_path / "cache"
    with FakeHub(files_of(folder)) as hub:
        fetch(hub, cache)
        asked = {s.path for s in hub.seen}
    assert not [path for path in asked if path.endswith((".py", ".so", ".bin"))]
    kept = {p.name for p in (cache / "models--acme--tiny" / "snapshots").rglob("*")}
    assert {"LICENSE", "NOTICE.md", "config.json"} <= kept
    assert not (folder / MARKER).exists()


def test_a_pull_of_a_model_file_ends_before_its_weights(folder: Path, tmp_path: Path) -> None:
    plant(folder, "model_file")
    with FakeHub(files_of(folder)) as hub, pytest.raises(PullError, match="model_file") as caught:
        fetch(hub, tmp_path / "cache")
    assert caught.value.status == 422
    assert not [s for s in hub.seen if "model.safetensors" in s.path]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("commit", "/tmp/elsewhere"),
        ("commit", "../../../evil"),
        ("commit", "main"),
        ("commit", ""),
        ("sha256", "../../../evil"),
        ("sha256", "A" * 64),
        ("sha256", ""),
        ("blob", "/etc/passwd"),
        ("blob", None),
        ("size", -1),
        ("size", 1 << 60),
        ("size", None),
    ],
)
def test_answers_of_a_hub_that_would_become_paths_are_refused(
    whole: Path, tmp_path: Path, field: str, value: Any
) -> None:
    cache = tmp_path / "cache"
    with FakeHub(files_of(whole)) as hub:
        hub.lies = {field: value}
        with pytest.raises(PullError, match=r"names no commit|no sizes and hashes"):
            fetch(hub, cache)
    assert not [p for p in cache.rglob("*") if p.is_file() and p.suffix not in (".lock", ".json")]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache"]


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://hub.test", True),
        ("http://127.0.0.1:8080", True),
        ("http://[::1]:8080", True),
        ("http://localhost:8080/mirror", True),
        ("http://hub.test", False),
        ("http://127.0.0.1.evil.test", False),
        ("http://localhost@evil.test", False),
        ("http://10.0.0.2", False),
        ("ftp://hub.test", False),
        ("file:///etc", False),
        ("hub.test", False),
    ],
)
def test_addresses_to_fetch_from(url: str, allowed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.test")
    if allowed:
        assert Endpoint(url).url in [e.url for e in hub_api.endpoints((url,))]
        return
    with pytest.raises(PullError, match="no address to fetch models from"):
        hub_api.endpoints((url,))
    monkeypatch.setenv("HF_ENDPOINT", url)
    with pytest.raises(PullError, match="no address to fetch models from"):
        hub_api.endpoints(())
