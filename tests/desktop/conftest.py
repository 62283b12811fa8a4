"""The built app, started anew for a test in a home and state directory of its own."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from host_api.config import HostConfig
from host_api.process import LaunchSpec
from tests.support import programs
from tests.support.webdriver import WINDOW, Display, Window, display, driver, window

if TYPE_CHECKING:
    from tests.support.neighbour import Neighbour

PROGRAM = os.environ.get("MLX_SIDECAR_DESKTOP_APP", "")
GRACE = 2.0  # seconds
MARK = "MLX_SIDECAR_TEST_MARK"  # in the environment of the app and all it starts

# `make test-desktop` builds the app and says where it is.
BUILT = PROGRAM or os.environ.get("MLX_SIDECAR_DESKTOP_DEB") or os.environ.get("MLX_SIDECAR_SCRATCH_DEB")
collect_ignore_glob = [] if BUILT else ["test_*.py"]


def marked(mark: str) -> dict[int, str]:
    """PID and name of every living process that was started under ``mark``, the drivers aside."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes():
                name = (folder / "comm").read_text().strip()
                if not name.startswith("WebKitWebDriver"[:15]):
                    found[int(folder.name)] = name
    return found


@dataclass
class Desk:
    """A user's desk: a display, a home, a state directory, and the app when it is open."""

    home: Path
    screen: Display
    shots: Path
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    more: dict[str, str] = field(default_factory=dict)  # environment

    def shot(self, name: str, box: tuple[int, int, int, int] = (0, 0, *WINDOW)) -> None:
        """A picture of the screen, or of the part in ``box``, kept in artifacts/desktop/."""
        self.screen.screenshot(self.shots / f"{name}.png", box)

    @property
    def state_dir(self) -> Path:
        """Shared by the app and a Python host."""
        return self.home / "state"

    @property
    def env(self) -> dict[str, str]:
        """Of the app."""
        nothing = {k: "" for k in os.environ if k.startswith("MLX_SIDECAR_")}
        return nothing | {
            MARK: self.mark,
            "HOME": str(self.home),
            "XDG_DATA_HOME": str(self.home / "data"),
            "XDG_CACHE_HOME": str(self.home / "cache"),
            "XDG_CONFIG_HOME": str(self.home / "config"),
            "XDG_RUNTIME_DIR": str(self.home / "run"),
            "DISPLAY": self.screen.name,
            "GDK_BACKEND": "x11",
            "WEBKIT_DISABLE_DMABUF_RENDERER": "1",
            "LIBGL_ALWAYS_SOFTWARE": "1",
            "NO_AT_BRIDGE": "1",
            "MLX_SIDECAR_STATE_DIR": str(self.state_dir),
            "MLX_SIDECAR_PORT": "0",
            "MLX_SIDECAR_GRACE_TIME": str(GRACE),
            **self.more,
        }

    @contextlib.contextmanager
    def app(self, program: Path = Path(PROGRAM)) -> Iterator[Window]:
        """Open the app."""
        for again in (True, False):
            with contextlib.ExitStack() as stack:
                http = stack.enter_context(driver(self.env, self.home / "app.log"))
                try:
                    opened = stack.enter_context(window(http, program))
                except httpx.ReadTimeout:  # seen once in some hundred starts: the app is up, the driver doesn't find it
                    if again:
                        self.end()
                        continue
                    raise
                opened.wait("a page", functools.partial(opened.text, "h1"))
                yield opened
                return

    def end(self) -> None:
        """Kill what runs of the app."""
        for pid in self.running():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.until("all of it is gone", lambda: not self.running())

    def running(self) -> dict[int, str]:
        """What runs of the app: itself, its web processes, its sidecar."""
        return marked(self.mark)

    def pid(self, name: str) -> int:
        """Of the one process called so."""
        pids = [pid for pid, comm in self.running().items() if comm == name[:15]]
        assert len(pids) == 1, (name, self.running())
        return pids[0]

    def sidecars(self) -> list[int]:
        """PIDs of the living sidecars of this state directory, whoever started them."""
        return programs.sidecars(self.state_dir)

    def until(self, what: str, condition: Callable[[], object], seconds: float = 30.0) -> None:
        """Poll. Raises AssertionError with what runs and what was logged."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"not within {seconds} s: {what}; running: {self.running()}\n{self.log()}"
            time.sleep(0.05)

    def log(self) -> str:
        """What the app and the driver wrote."""
        path = self.home / "app.log"
        return path.read_text(errors="replace")[-4000:] if path.exists() else ""

    def host_config(self) -> HostConfig:
        """A Python host on the same state directory, with the same frozen sidecar."""
        library = Path(PROGRAM).parents[1] / "lib" / Path(PROGRAM).name
        command = (str(library / "mlx-sidecar" / "mlx-sidecar"),)
        spec = LaunchSpec(command=command, port=0, grace_time=GRACE, bundled_data_dirs=(library / "starter",))
        return HostConfig(state_dir=self.state_dir, launch=spec)


@pytest.fixture(scope="session")
def screen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Display]:
    """One display for all tests."""
    with display(tmp_path_factory.mktemp("screen")) as it:
        yield it


@pytest.fixture
def desk(tmp_path: Path, screen: Display) -> Iterator[Desk]:
    """A fresh desk; whatever a failed test left running is ended, and nothing else."""
    (tmp_path / "run").mkdir(mode=0o700)
    shots = Path(__file__).resolve().parents[2] / "artifacts" / "desktop"
    it = Desk(tmp_path, screen, shots)
    yield it
    left = it.running()
    for pid in [*left, *it.sidecars()]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert not left, f"left running: {left}"


@pytest.fixture
def neighbour(screen: Display) -> Iterator[Neighbour]:
    """Another program on the screen."""
    from tests.support.neighbour import Neighbour  # its library is there on Linux alone

    it = Neighbour(screen.name)
    yield it
    it.close()


@pytest.fixture(scope="session")
def bus() -> Iterator[str]:
    """A D-Bus session bus of the tests' own: the address."""
    with subprocess.Popen(
        ["dbus-daemon", "--session", "--nofork", "--print-address=1"], stdout=subprocess.PIPE, text=True
    ) as daemon:
        try:
            assert daemon.stdout is not None
            yield daemon.stdout.readline().strip()
        finally:
            daemon.terminate()
