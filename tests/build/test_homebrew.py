"""The formula and the cask: Ruby reads them, what they name is there, and the formula's own steps make a program."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from sidecar import __version__
from tests.support.apple import digest

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = "https://example.org/releases/v1"
# As much of Homebrew's words as the formula uses; files, links and programs are real.
BREW = r"""
require "fileutils"
require "json"
require "socket"
class Folder < String
  def /(name) = Folder.new(File.join(self, name.to_s))
  def install(files) = (FileUtils.mkdir_p(self); FileUtils.mv(files, self))
  def install_symlink(path) = (FileUtils.mkdir_p(self); FileUtils.ln_s(path, self/File.basename(path)))
end
class Formula
  SAID = {}
  %i[desc homepage url version sha256 license depends_on].each do |word|
    define_singleton_method(word) { |value| SAID[word] = [*SAID[word], value] }
  end
  def self.service(&) = nil
  def self.test(&block) = define_method(:check, &block)
  def libexec = Folder.new(ENV.fetch("PREFIX"))/"libexec"
  def bin = Folder.new(ENV.fetch("PREFIX"))/"bin"
  def version = SAID[:version].first
  def shell_output(line) = `#{line}`
  def assert_match(word, text) = text.include?(word) || abort("#{text} lacks #{word}")
  def testpath = Folder.new(Dir.pwd)
  def free_port = TCPServer.open("127.0.0.1", 0) { |server| server.addr[1] }
end
load ARGV[0]
formula = MlxSidecar.new
formula.install
formula.check if ARGV[1] == "check"
puts JSON.generate(Formula::SAID)
"""


def write(tmp_path: Path, *files: Path) -> Path:
    command = [sys.executable, str(ROOT / "build" / "homebrew.py"), "--out", str(tmp_path / "tap")]
    command += ["--page", "https://example.org", "--download", ADDRESS, *map(str, files)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return tmp_path / "tap"


@pytest.fixture
def ruby() -> str:
    program = shutil.which("ruby")
    if program is None:
        pytest.skip("ruby is not installed: apt-get install ruby")
    return program


def test_the_formulas_steps_make_a_program_that_runs(tmp_path: Path, ruby: str) -> None:
    """Over the archive as the workflow packs it, of the frozen program of this machine."""
    dist = ROOT / "dist"
    assert (dist / "mlx-sidecar" / "mlx-sidecar").exists(), "run `make freeze` first (`make test` does)"
    archive = tmp_path / "mlx-sidecar-aarch64-apple-darwin.tar.gz"
    words = ["tar", "-cf", str(archive), "-C", str(dist), "mlx-sidecar", "manifest.json"]
    subprocess.run(words, check=True, timeout=120)  # not compressed: nobody looks at that here
    formula = write(tmp_path, archive) / "Formula" / "mlx-sidecar.rb"
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path / "unpacked", filter="fully_trusted")
    (tmp_path / "brew.rb").write_text(BREW)
    env = {"PREFIX": str(tmp_path / "cellar"), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    command = [ruby, "-W", str(tmp_path / "brew.rb"), str(formula), "check"]
    done = subprocess.run(command, cwd=tmp_path / "unpacked", env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["url"] == [f"{ADDRESS}/{archive.name}"]
    assert said["sha256"] == [digest(archive)]
    assert said["version"] == [__version__]
    assert said["depends_on"] == [{"arch": "arm64"}, {"macos": "sonoma"}]
    assert (tmp_path / "cellar" / "bin" / "mlx-sidecar").is_symlink()


def test_the_cask_is_ruby_and_names_the_app(tmp_path: Path, ruby: str) -> None:
    for name in ("archive.tar.gz", "app.dmg"):
        (tmp_path / name).write_text(name)
    cask = write(tmp_path, tmp_path / "archive.tar.gz", tmp_path / "app.dmg") / "Casks" / "mlx-sidecar-desktop.rb"
    assert subprocess.run([ruby, "-wc", str(cask)], capture_output=True, text=True, timeout=60).stderr == ""
    text = cask.read_text()
    config = json.loads((ROOT / "examples" / "desktop-app" / "src-tauri" / "tauri.conf.json").read_text())
    assert f'app "{config["productName"]}.app"' in text
    assert text.count(config["identifier"]) == 3
    assert digest(tmp_path / "app.dmg") in text


@pytest.mark.parametrize(
    ("page", "name"), [('http://127.0.0.1/"#{exit}', "a.tar.gz"), ("http://127.0.0.1", 'a"b.tar.gz'), ("", "a.tar.gz")]
)
def test_what_ruby_would_run_or_not_read_is_refused(tmp_path: Path, page: str, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    command = [sys.executable, "build/homebrew.py", "--page", page, "--download", "http://127.0.0.1/d"]
    command += ["--out", str(tmp_path / "out"), str(tmp_path / name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "can't stand in a Ruby file" in done.stderr
    assert not (tmp_path / "out").exists()
