"""Writes a formula for the frozen program and a cask for a desktop app, for a tap of one's own.

    python build/homebrew.py --page https://… --download https://…/v0.1.0 ARCHIVE [DISK_IMAGE]

ARCHIVE is what the release workflow uploads (mlx-sidecar-aarch64-apple-darwin.tar.gz), DISK_IMAGE the app's .dmg; the
hashes are of these files. Written to dist/homebrew/Formula and dist/homebrew/Casks. The order of the stanzas is that of
Homebrew's cookbooks (August 2026); brew itself has seen neither.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from sidecar import __version__  # noqa: E402

FORMULA = """class MlxSidecar < Formula
  desc "Private vision-language model server that desktop apps share"
  homepage "{page}"
  url "{download}/{name}"
  version "{version}"
  sha256 "{sha256}"
  license "Apache-2.0"

  depends_on arch: :arm64
  depends_on macos: :sonoma

  def install
    libexec.install Dir["mlx-sidecar/*"]
    bin.install_symlink libexec/"mlx-sidecar"
  end

  service do
    run [opt_bin/"mlx-sidecar", "serve"]
    keep_alive crashed: true
    log_path var/"log/mlx-sidecar.log"
    error_log_path var/"log/mlx-sidecar.log"
  end

  test do
    port = free_port
    pid = spawn bin/"mlx-sidecar", "serve", "--port", port.to_s, "--state-dir", testpath/"state"
    health = "http://127.0.0.1:#{{port}}/health"
    assert_match version.to_s, shell_output("curl -s --retry 30 --retry-delay 1 --retry-connrefused #{{health}}")
  ensure
    Process.kill "TERM", pid
    Process.wait pid
  end
end
"""

CASK = """cask "mlx-sidecar-desktop" do
  version "{version}"
  sha256 "{sha256}"

  url "{download}/{name}"
  name "mlx-sidecar desktop"
  desc "Private chat with a vision-language model"
  homepage "{page}"

  depends_on arch: :arm64
  depends_on macos: :sonoma

  app "mlx-sidecar-desktop.app"

  zap trash: [
    "~/Library/Application Support/dev.mlx-sidecar.desktop",
    "~/Library/Caches/dev.mlx-sidecar.desktop",
    "~/Library/WebKit/dev.mlx-sidecar.desktop",
  ]
end
"""

PLAIN = re.compile(r"[A-Za-z0-9._~:/?=&%+@,-]+")
"""Addresses and names that are written into Ruby's double quotes."""


def fill(form: str, file: Path, page: str, download: str) -> str:
    """Return a formula or cask for ``file``, which lies at ``download`` under its own name."""
    with file.open("rb") as opened:
        sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
    return form.format(page=page, download=download, name=file.name, version=__version__, sha256=sha256)


def main(argv: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", required=True, help="the project's home page")
    parser.add_argument(
        "--download", required=True, help="where the files of this version lie, without a slash at the end"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "dist" / "homebrew")
    parser.add_argument("archive", type=Path)
    parser.add_argument("disk_image", type=Path, nargs="?")
    args = parser.parse_args(argv)
    wanted = [
        ("Formula/mlx-sidecar.rb", FORMULA, args.archive),
        ("Casks/mlx-sidecar-desktop.rb", CASK, args.disk_image),
    ]
    for name, form, file in wanted:
        if file is None:
            continue
        if not file.is_file():
            sys.stderr.write(f"{file} is missing\n")
            return 1
        odd = [text for text in (args.page, args.download, file.name) if not PLAIN.fullmatch(text)]
        if odd:
            sys.stderr.write(f"{odd[0]!r} can't stand in a Ruby file as it is: percent-encode it, or rename the file\n")
            return 1
        path = args.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(fill(form, file, args.page, args.download), "utf-8")
        sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
