"""Model folders that hosts lend: which models there are does not depend on who came first."""

from __future__ import annotations

import itertools
import json
import os
import select
import shlex
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from host_api.protocol import folders
from host_api.protocol.folders import Folders, Lease
from sidecar.config import ConfigError, Settings, load
from sidecar.models import starter
from sidecar.models.registry import ModelNotFound, Registry
from tests.support.programs import FAULTY, ROOT, Holder, Program, clean_env, lives, record, wait_for

HONEST = {"FAULT_MODE": "honest"}
ORDERS = [",".join(order) for order in itertools.permutations(("py", "rs", "terminal"))]


def models(folder: Path, *names: str) -> Path:
    """A folder with model folders that a list shows."""
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text("{}")
    return folder


def bundled(folder: Path) -> Path:
    """A data directory as an app's bundle has it, with a starter model."""
    models(folder / "models", "starter")
    (folder / "models" / "starter" / starter.MARKER).write_text(json.dumps({"format": starter.FORMAT}))
    return folder


def registry(state: Path, home: Path) -> Registry:
    """What a sidecar of this state directory lists: the code that answers /v1/models."""
    settings = Settings(data_dir=home / "data", cache_dir=home / "cache", state_dir=state)
    return Registry(settings, lent=lambda: folders.lent(state))


@pytest.mark.parametrize("order", ORDERS)
def test_the_order_of_launches_makes_no_difference(
    both: dict[str, Program], state: Path, tmp_path: Path, order: str
) -> None:
    lends = {name: models(tmp_path / name, f"of-{name}") for name in ("py", "rs", "terminal")}
    app = bundled(tmp_path / "app")
    held: dict[str, Holder] = {}
    stand_in = tmp_path / "mlx-sidecar"  # of one file: what its hosts' environments have of Python is not passed on
    stand_in.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec {shlex.join(FAULTY)} "$@"\n')
    stand_in.chmod(0o755)
    for name in order.split(","):
        if name == "terminal":
            words = [sys.executable, "-m", "host_api.cli", "watch", "--json", "--port", "0", "--grace-time", "5"]
            env = clean_env(MLX_SIDECAR_MODEL_DIR=str(lends[name]), **HONEST)
            pipe = subprocess.PIPE
            command = [*words, "--command", str(stand_in), "--state-dir", str(state)]
            held[name] = Holder(subprocess.Popen(command, stdin=pipe, stdout=pipe, env=env, cwd=ROOT))
            held[name].event("ready")
        else:
            args = ["--model-dir", str(lends[name]), "--grace-time", "5"]
            args += ["--bundled-data-dir", str(app)] if name == "rs" else []
            held[name] = both[name].hold(state, *args, sidecar=[str(stand_in)], **HONEST)
    here = registry(state, tmp_path / "home")
    assert [m.name for m in here.available()] == ["starter", "of-py", "of-rs", "of-terminal"]
    found = record(state)
    assert found is not None
    first = order.split(",")[0]
    assert str(lends[first]) not in Path(f"/proc/{found.pid}/cmdline").read_text()
    assert str(lends[first]) not in Path(f"/proc/{found.pid}/environ").read_text()
    held.pop(first).kill()
    left = {"starter", "of-py", "of-rs", "of-terminal"} - {f"of-{first}"} - ({"starter"} if first == "rs" else set())
    wait_for(lambda: {m.name for m in here.available()} == left, 5, "a killed host's folders going with it")
    for holder in held.values():
        holder.process.send_signal(signal.SIGTERM if holder is held.get("terminal") else signal.SIGCONT)
        holder.let_go()
    assert here.available() == []
    assert list((state / "folders").iterdir()) == []
    assert (app / "models" / "starter" / "config.json").exists()


def test_what_is_lent_is_never_deleted(tmp_path: Path) -> None:
    lease = Lease(
        tmp_path, Folders(model_dirs=(models(tmp_path / "m", "one"),), data_dirs=(bundled(tmp_path / "app"),))
    )
    lease.bring(wanted=True)
    here = registry(tmp_path, tmp_path / "home")
    for name in ("one", "starter"):
        assert here.resolve(name).path.is_dir()
        with pytest.raises(ModelNotFound, match="another program; it goes with that program"):
            here.remove(name)
        assert (here.resolve(name).path / "config.json").is_file()
    lease.close()
    with pytest.raises(ModelNotFound, match="not installed"):
        here.remove("starter")


def test_one_name_in_two_folders_is_the_same_model_in_either_order(tmp_path: Path) -> None:
    one, two = models(tmp_path / "a", "same"), models(tmp_path / "b", "same")
    here = registry(tmp_path / "state", tmp_path / "home")
    (tmp_path / "state").mkdir(mode=0o700)
    for pair in ((one, two), (two, one)):
        leases = [Lease(tmp_path / "state", Folders(model_dirs=(folder,))) for folder in pair]
        for lease in leases:
            lease.bring(wanted=True)
        assert here.resolve("same").path == one / "same"
        for lease in leases:
            lease.close()


def test_a_file_that_was_swept_away_is_written_again(tmp_path: Path) -> None:
    lease = Lease(tmp_path, Folders(model_dirs=(tmp_path / "m",)))
    lease.bring(wanted=True)
    for path in (tmp_path / "folders").iterdir():
        path.unlink()
    assert folders.lent(tmp_path) == Folders()
    lease.bring(wanted=True)
    assert folders.lent(tmp_path) == Folders(model_dirs=(tmp_path / "m",))
    lease.close()


@pytest.mark.parametrize(
    "text",
    ["", "[" * 100_000, "[]", '{"schema": 2, "model_dirs": ["/x"]}', '{"schema": 1, "model_dirs": "/x"}',
     '{"schema": 1, "model_dirs": ["relative", 5, "/a\\u0000b"], "data_dirs": {"a": 1}}'],
    ids=["empty", "deep", "list", "schema", "text", "paths"],
)  # fmt: skip
def test_files_that_mean_nothing(text: str) -> None:
    assert folders.parse(text.encode()) == Folders()


def test_a_forked_child_takes_nothing_back(tmp_path: Path) -> None:
    lease = Lease(tmp_path, Folders(model_dirs=(tmp_path / "m",)))
    lease.bring(wanted=True)
    pid = os.fork()
    if pid == 0:
        lease.close()
        os._exit(0)
    os.waitpid(pid, 0)
    assert folders.lent(tmp_path).model_dirs == (tmp_path / "m",)
    lease.close()


@pytest.mark.parametrize("place", ["/Applications/My App.app/Contents/Resources/starter", "/x.app/Contents"])
def test_the_data_directory_is_never_in_an_application(place: str) -> None:
    with pytest.raises(ConfigError, match="which updates replace"):
        load(env={"MLX_SIDECAR_DATA_DIR": place})


@pytest.mark.parametrize("name", ["py", "rs"])
def test_the_real_server_lists_what_is_lent(both: dict[str, Program], name: str, state: Path, tmp_path: Path) -> None:
    """Also: nothing that its host had open stays open in the sidecar."""
    place = models(tmp_path / "m", "lent-model")
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    words = [*both[name].argv, "hold", "--state-dir", str(state), "--model-dir", str(place), "--grace-time", "30"]
    words += ["--command-json", json.dumps([sys.executable, "-m", "sidecar.entry"])]
    pipe = subprocess.PIPE
    host = Holder(subprocess.Popen(words, stdin=pipe, stdout=pipe, env=clean_env(), cwd=ROOT, pass_fds=(writer,)))
    os.close(writer)
    made = host.line()["connection"]
    ask = urllib.request.Request(f"{made['url']}/v1/models", headers={"authorization": f"Bearer {made['token']}"})
    with urllib.request.urlopen(ask, timeout=30) as answer:
        assert "lent-model" in [m["id"] for m in json.load(answer)["data"]]
    host.let_go()
    found = record(state)
    assert select.select([reader], [], [], 5)[0], "the sidecar keeps a descriptor of its host's"
    assert os.read(reader, 1) == b""
    os.close(reader)
    assert found is not None
    assert lives(found)
    assert both[name].run("stop", state)["stopped"]
