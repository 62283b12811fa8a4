"""The steps of first_run.sh, and the report they are written into. The standard library alone: nothing is set up yet.

A step is a command, or a few in a shell, with a time limit and the words that its output must have. Its outcome is
``passed``, ``FAILED``, ``skipped`` (with the reason) or ``seen`` (a fact that has no right or wrong). Steps for the Mac
alone are skipped elsewhere and say so; some have a Linux form in their place; the report shows the command that ran.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MAC = sys.platform == "darwin"
FROZEN = "dist/mlx-sidecar/mlx-sidecar"
QUESTION = '"What is the capital of France?"'
DATA = Path.home() / ".cache" / "mlx-sidecar-dev" / "data"  # models; as in the Makefile
SAME = "the same as on a Mac"
_OUTPUT = 6000  # characters of a step's output in the report, its end


@dataclasses.dataclass(frozen=True)
class Step:
    """One thing to see: ``mac`` and ``linux`` are shell commands (None: skipped there, for the reason ``why``)."""

    name: str
    what: str
    mac: str
    linux: str | None = SAME
    limit: int = 300  # seconds
    expect: str = ""  # a regular expression that the output must have
    forbid: str = ""  # one that it must not have
    seen: bool = False  # the output is a fact, not a verdict
    why: str = ""

    def command(self) -> str | None:
        """Return what is run on this system."""
        return self.mac if MAC or self.linux == SAME else self.linux


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a step."""

    step: Step
    verdict: str
    reason: str
    output: str
    seconds: float


PYTHON = ".venv/bin/python"
BLAS = "env $(build/blas.sh)"
STEPS = (
    Step(
        "machine",
        "which machine this is",
        "sw_vers; uname -mv; sysctl -n machdep.cpu.brand_string hw.memsize; sysctl iogpu.wired_limit_mb; "
        "sysctl -n sysctl.proc_translated || true; xcode-select -p; pmset -g batt | head -2; df -h . | tail -1",
        "uname -a; nproc; free -h; df -h . | tail -1",
        60,
        seen=True,
    ),
    Step("setup", "the pinned packages", "make setup", limit=1800),
    Step(
        "wheels",
        "the wheels are those of the lowest macOS promised",
        f"{PYTHON} -c \"import importlib.metadata as m; print(m.distribution('mlx-metal').read_text('WHEEL'))\"",
        None,
        60,
        expect=r"macosx_14_0_arm64",
        why="Linux has no mlx-metal",
    ),
    Step(
        "product",
        "a product of two matrices on MLX's default device equals numpy's",
        f"{BLAS} {PYTHON} -m tools.macos.product",
        expect=r"^equal",
        limit=120,
    ),
    Step("freeze", "the frozen program is built", "make freeze && du -sh dist/mlx-sidecar", limit=1800),
    Step(
        "check",
        "processor, lowest macOS, library paths, metallib, SBOM, licences of what would be shipped",
        f"{PYTHON} build/release.py check dist/mlx-sidecar",
        None,
        why="there are no Mach-O files in a Linux build; tests/build/test_release.py checks the macOS wheels",
        expect=r"Mach-O files, all for arm64",
    ),
    Step(
        "selfcheck",
        "everything that is imported by name is in the frozen program",
        f"{FROZEN} selfcheck",
        limit=600,
    ),
    Step("starter", "the starter model", f"{BLAS} .venv/bin/mlx-sidecar starter install", limit=1200),
    Step(
        "start",
        "seconds from the start of the program to /health and to the first token",
        f"{BLAS} {PYTHON} -m benchmarks.start --rounds 3",
        limit=600,
        seen=True,
    ),
    Step(
        "source-answers",
        "the starter answers from source",
        f"{BLAS} .venv/bin/mlx-sidecar chat --temperature 0 {QUESTION}",
        expect="Paris",
    ),
    Step(
        "frozen-answers",
        "the starter answers frozen, and no library is missing",
        f"{FROZEN} chat --temperature 0 {QUESTION}",
        expect="Paris",
        forbid="metallib|library not loaded",
    ),
    Step(
        "copy-answers",
        "the same from a copy whose links became files",
        f'cp -RL dist/mlx-sidecar "$WORK/copy" && "$WORK/copy/mlx-sidecar" chat --temperature 0 {QUESTION}; '
        'code=$?; rm -rf "$WORK/copy"; exit $code',
        expect="Paris",
        forbid="metallib|library not loaded",
    ),
    Step(
        "sees",
        "the starter sees a red circle, frozen",
        f'{PYTHON} -m tools.macos.picture "$WORK/circle.png" && '
        f'{FROZEN} chat --temperature 0 --image "$WORK/circle.png" "What is in the picture?"',
        expect="(?i)red.*circle|circle.*red",
    ),
    Step(
        "qwen",
        "Qwen3-VL-4B, 4 bit, is fetched (3 GB) and sees it too",
        "make -s freeze >/dev/null && dist/mlx-sidecar/mlx-sidecar pull qwen3-vl-4b && "
        'dist/mlx-sidecar/mlx-sidecar chat --model qwen3-vl-4b --image "$WORK/circle.png" "What is in the picture?"',
        None,
        3600,
        expect="(?i)circle",
        why="no model hub is asked on Linux; `make families` runs this architecture with random weights",
    ),
    Step(
        "memory",
        "the memory that MLX says it may use, and what the ledger makes of it",
        f"{BLAS} {PYTHON} -m tools.macos.memory",
        limit=120,
        seen=True,
    ),
    Step(
        "pressure",
        "a chat while the machine says that memory is short",
        "memory_pressure -l warn -s 30 >/dev/null & "
        f"{FROZEN} chat --temperature 0 {QUESTION}; code=$?; wait; exit $code",
        None,
        300,
        expect="Paris",
        why="memory_pressure is a program of macOS",
    ),
    Step(
        "sleep",
        "host and sidecar go on after a sleep: on a Mac close the lid for a minute when told; on Linux both are "
        "stopped for 20 s by SIGSTOP in its place",
        f"{PYTHON} -m tools.macos.sleep {FROZEN}",
        limit=420,
        expect="^went on",
    ),
    Step(
        "ownership",
        "forty launchers at once, five rounds: one sidecar each",
        "make storm ARGS='--rounds 5'",
        limit=900,
    ),
    Step(
        "signature",
        "every Mach-O signed inside out, read back, run again",
        f'if [ -n "$CODESIGN_IDENTITY" ]; then {PYTHON} build/release.py sign dist/mlx-sidecar; else '
        "find dist/mlx-sidecar -name '*.so' -o -name '*.dylib' | xargs codesign --force --sign - && "
        f"codesign --force --sign - {FROZEN}; fi && codesign --verify --strict --verbose=2 {FROZEN} && "
        f"{FROZEN} chat --temperature 0 {QUESTION}",
        None,
        900,
        expect="Paris",
        why="codesign is a program of macOS; tests/build/test_release.py has stand-ins for it",
    ),
    Step(
        "desktop",
        "the desktop app is bundled; open it by hand, ask about Paris, drop a picture, look at the tray",
        "make desktop",
        limit=2400,
    ),
    Step("tests", "every test", "make test", limit=5400, expect=r"\d+ passed"),
)


def run(step: Step, work: Path) -> Outcome:
    """Run a step's command in the checkout, with its own process group, and judge what it printed."""
    command = step.command()
    if command is None:
        return Outcome(step, "skipped", step.why, "", 0.0)
    began = time.monotonic()
    log = work / f"{step.name}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["/bin/sh", "-c", command],
            cwd=ROOT,
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=None if sys.stdin.isatty() else subprocess.DEVNULL,
            env={"MLX_SIDECAR_DATA_DIR": str(DATA), **os.environ, "WORK": str(work)},
            start_new_session=not sys.stdin.isatty(),
        )
        try:
            code: int | None = process.wait(step.limit)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            code = None
            _end(process)
    text = re.sub(r"[^\n]*\r(?!\n)", "", log.read_text("utf-8", "replace"))  # of a progress line its last state
    verdict, reason = judge(step, code, text)
    return Outcome(step, verdict, reason, text, time.monotonic() - began)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a step's command, and what it started where that shares a group of its own."""
    own = os.getpgid(process.pid) == process.pid  # not at a terminal: there the shell's group is the person's
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number) if own else process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)


def judge(step: Step, code: int | None, text: str) -> tuple[str, str]:
    """Return the verdict and its reason for an exit status (None: cut at the limit) and what was printed."""
    if code is None:
        return "FAILED", f"not done after {step.limit} s, or interrupted"
    if code != 0:
        return "FAILED", f"exit status {code}"
    if step.expect and not re.search(step.expect, text, re.MULTILINE):
        return "FAILED", f"nothing in the output matches {step.expect!r}"
    if step.forbid and (bad := re.search(step.forbid, text, re.MULTILINE | re.IGNORECASE)):
        return "FAILED", f"the output has {bad[0]!r}"
    return ("seen" if step.seen else "passed"), ""


def report(outcomes: list[Outcome]) -> str:
    """Return the report as Markdown: a table, then each step's output. The home folder's name is left out."""
    failed = [o for o in outcomes if o.verdict == "FAILED"]
    lines = [
        "# First run",
        "",
        f"{platform.platform()}, {platform.machine()}, Python {platform.python_version()}, "
        f"commit {_commit()}. {len(failed)} of {len(outcomes)} steps failed.",
        "" if MAC else "\n**Not a Mac**: steps of macOS are skipped, and nothing here says anything about one.",
        "",
        "| step | what | verdict | seconds |",
        "| --- | --- | --- | --- |",
    ]
    for o in outcomes:
        word = o.verdict + (f": {o.reason}" if o.reason else "")
        lines.append(f"| {o.step.name} | {o.step.what} | {word} | {o.seconds:.1f} |")
    for o in outcomes:
        if o.output:
            fence = "````"
            lines += [
                "",
                f"## {o.step.name}",
                "",
                f"`{o.step.command()}`",
                "",
                fence,
                o.output[-_OUTPUT:].rstrip(),
                fence,
            ]
    return "\n".join(lines).replace(str(Path.home()), "~") + "\n"


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def chosen(only: str, skip: str) -> list[Step]:
    """Return the steps named in ``only`` (all when empty) less those in ``skip``. Raises SystemExit for others."""
    names = {s.name for s in STEPS}
    wanted, unwanted = ({n for n in text.split(",") if n} for text in (only, skip))
    if unknown := sorted((wanted | unwanted) - names):
        raise SystemExit(f"there is no step {', '.join(unknown)}; the steps are: {', '.join(s.name for s in STEPS)}")
    return [s for s in STEPS if (not wanted or s.name in wanted) and s.name not in unwanted]


def main(argv: list[str] | None = None, say: Callable[[str], object] = sys.stdout.write) -> int:
    """Run the steps, write the report; 1 when one failed."""
    parser = argparse.ArgumentParser(prog="first_run.sh", description="Run what must be seen on a Mac; write a report.")
    parser.add_argument("--list", action="store_true", help="print the steps and end")
    parser.add_argument("--only", default="", metavar="STEP,STEP", help="these steps alone")
    parser.add_argument("--skip", default="", metavar="STEP,STEP", help="all but these")
    parser.add_argument("--report", type=Path, default=ROOT / "first-run-report.md", help="the file to write")
    args = parser.parse_args(argv)
    steps = chosen(args.only, args.skip)
    if args.list:
        say("".join(f"{s.name:15} {s.what}{'' if s.command() else ' (skipped here: ' + s.why + ')'}\n" for s in steps))
        return 0
    work = Path(tempfile.mkdtemp(prefix="first-run-"))
    outcomes: list[Outcome] = []
    try:
        for step in steps:
            say(f"{step.name}: {step.what}\n")
            outcomes.append(run(step, work))
            last = outcomes[-1]
            say(f"  {last.verdict} {last.reason} ({last.seconds:.1f} s)\n")
            args.report.write_text(report(outcomes), "utf-8")  # after each step: what was seen stays whatever comes
    finally:
        shutil.rmtree(work, ignore_errors=True)
    say(f"{args.report}: look through it, then send it back\n")
    return 1 if any(o.verdict == "FAILED" for o in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
