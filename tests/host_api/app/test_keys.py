"""Providers' keys in a real keyring (the Secret Service of a session of its own), and without one."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from host_api.app.data.keys import KeyStore, KeysUnreadable
from tests.support.host_servers import host
from tests.support.servers import wait_for

NEEDED = ("dbus-daemon", "gnome-keyring-daemon")
SEARCH = "import keyring, sys; print(keyring.get_password('mlx-sidecar-host', sys.argv[1]))"


@pytest.fixture
def secret_service(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of programs that see an unlocked keyring of their own."""
    if sys.platform != "linux":
        pytest.skip("the Secret Service is Linux's")
    if missing := [n for n in NEEDED if shutil.which(n) is None]:
        pytest.fail(f"{' and '.join(missing)} missing (Debian: apt-get install dbus-daemon gnome-keyring).")
    home = tmp_path / "keyring"
    home.mkdir(mode=0o700)
    address = f"unix:path={home}/bus"
    # Nothing of the user's own session, nor a preloaded library that the daemons have no use for.
    plain = {k: v for k, v in os.environ.items() if k not in ("LD_PRELOAD", "DISPLAY", "WAYLAND_DISPLAY")}
    env = {**plain, "HOME": str(home), "XDG_DATA_HOME": str(home), "XDG_RUNTIME_DIR": str(home)}
    env["DBUS_SESSION_BUS_ADDRESS"] = address
    bus_command = ["dbus-daemon", "--session", "--nofork", "--nopidfile", f"--address={address}"]
    keyring_command = ["gnome-keyring-daemon", "--foreground", "--unlock", "--components=secrets"]
    keyring_command.append(f"--control-directory={home}")
    with (home / "output").open("wb") as sink:
        bus = subprocess.Popen(bus_command, env=env, stdout=sink, stderr=sink)
        try:
            wait_for((home / "bus").exists, 20)
            ring = subprocess.Popen(keyring_command, env=env, stdin=subprocess.PIPE, stdout=sink, stderr=sink)
            try:
                assert ring.stdin is not None
                ring.stdin.write(b"a password\n")
                ring.stdin.close()
                wait_for((home / "control").exists, 20)
                yield {k: env[k] for k in ("DBUS_SESSION_BUS_ADDRESS", "HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR")}
            finally:
                ring.terminate()
                ring.wait(10)
        finally:
            bus.terminate()
            bus.wait(10)


def test_a_key_is_kept_in_the_keyring_and_forgotten_with_its_provider(
    tmp_path: Path, data_dir: Path, secret_service: dict[str, str]
) -> None:
    def stored(provider: str) -> str:
        command = [sys.executable, "-c", SEARCH, provider]
        env = {**os.environ, **secret_service}
        return subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=60).stdout.strip()

    with host(tmp_path, data_dir=data_dir, env=secret_service) as running, running.client() as http:
        body = {"name": "kept", "base_url": "http://127.0.0.1:9/v1", "api_key": "a-secret"}
        made = http.post("/models/providers", json=body).json()
        assert made["has_key"] is True
        assert json.loads(stored(made["id"])) == {"key": "a-secret", "origin": "http://127.0.0.1:9"}
        assert not (tmp_path / "data" / "keys.json").exists()
        http.put(f"/models/providers/{made['id']}", json={"api_key": "another"})
        assert json.loads(stored(made["id"]))["key"] == "another"
        http.delete(f"/models/providers/{made['id']}")
        assert stored(made["id"]) == "None"
        assert "a-secret" not in running.logs()


HERE = "https://api.example/v1"


def test_without_a_keyring_a_private_file_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    keys = KeyStore(path, use_keyring=False)
    keys.put("p", "secret", HERE)
    assert KeyStore(path, use_keyring=False).get("p", HERE) == "secret"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    keys.drop("p")
    assert keys.get("p", HERE) is None


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("https://api.example/other/path", True),
        ("https://API.example:443", True),
        ("http://api.example/v1", False),
        ("https://api.example:8443/v1", False),
        ("https://api.example.evil/v1", False),
        ("https://evil/v1", False),
    ],
)
def test_a_key_is_for_the_origin_it_was_given_for(url: str, same: bool, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    KeyStore(path, use_keyring=False).put("p", "secret", HERE)
    assert (KeyStore(path, use_keyring=False).get("p", url) == "secret") is same


def test_a_key_of_an_earlier_release_is_still_there(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text('{"p": "old-secret"}')
    assert KeyStore(path, use_keyring=False).get("p", HERE) == "old-secret"


def test_a_file_that_cannot_be_read_now_keeps_its_keys(tmp_path: Path) -> None:
    """Too many open files, here by the limit of a process of its own."""
    path = tmp_path / "keys.json"
    KeyStore(path, use_keyring=False).put("first", "kept", HERE)
    code = (
        "import os, resource, sys\n"
        "from pathlib import Path\n"
        "from host_api.app.data.keys import KeyStore, KeysUnreadable, KeysUnreadable\n"
        "keys = KeyStore(Path(sys.argv[1]), use_keyring=False)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 64))\n"
        "try:\n"
        "    keys.put('second', 'new', 'https://b.example')\n"
        "except KeysUnreadable as exc:\n"
        "    print('refused:', exc)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60)
    assert "nothing was changed" in done.stdout, done.stderr
    assert KeyStore(path, use_keyring=False).get("first", HERE) == "kept"


def test_a_damaged_file_is_set_aside_not_wiped(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text('{"p": "half a sec')
    keys = KeyStore(path, use_keyring=False)
    keys.put("q", "new", HERE)
    assert keys.get("q", HERE) == "new"
    (aside,) = tmp_path.glob("keys.json.damaged-*")
    assert aside.read_text() == '{"p": "half a sec'


def test_threads_lose_none_of_each_others_keys(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    keys = KeyStore(path, use_keyring=False)
    threads = [threading.Thread(target=keys.put, args=(f"p{i}", f"k{i}", HERE)) for i in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    again = KeyStore(path, use_keyring=False)
    assert [again.get(f"p{i}", HERE) for i in range(24)] == [f"k{i}" for i in range(24)]


class Hung:
    """A keyring whose daemon is gone or whose dialog nobody answers."""

    def __init__(self) -> None:
        self.asked = 0
        self.released = threading.Event()

    def get_password(self, service: str, name: str) -> None:
        self.asked += 1
        self.released.wait(60)


def test_a_keyring_that_hangs_is_asked_once_and_told_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ring = Hung()
    monkeypatch.setattr("host_api.app.data.keys._system_keyring", lambda: ring)
    monkeypatch.setattr("host_api.app.data.keys.PATIENCE", 0.2)
    keys = KeyStore(tmp_path / "keys.json")
    for _ in range(3):
        with pytest.raises(KeysUnreadable, match="did not answer"):
            keys.get("p", HERE)
    assert ring.asked == 1
    ring.released.set()
