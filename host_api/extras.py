"""What an extra of the package brings, and what to say where it was not installed.

``pip install mlx-sidecar`` alone brings process control: enough for a program that starts a frozen sidecar. The two
servers need more. Asking before they start is kinder than the traceback of whichever import fails first, and surer:
a missing ``mlx`` would only show at the first question, from a server that looks well.
"""

from __future__ import annotations

import importlib.util
import platform
import subprocess
import sys
from collections.abc import Sequence

MODULES = {
    "sidecar": (
        "fastapi",
        "uvicorn",
        "PIL",
        "pypdfium2",
        "llguidance",
        "prometheus_client",
        "huggingface_hub",
        "filelock",
        "msgspec",
        "nacl",
        "mlx",
        "mlx_vlm",
    ),
    "host": (
        "fastapi",
        "uvicorn",
        "sqlmodel",
        "keyring",
        "pydantic_ai",
        "openai",
        "python_multipart",
        "mcp",
        "socksio",
    ),
}
"""What each extra must bring, by the name it is imported under; a test compares with pyproject.toml."""


class MissingExtra(Exception):
    """Packages that a command needs are not installed; the message says how to get them."""


def require(extra: str, command: str) -> None:
    """Raise MissingExtra unless everything ``command`` needs of ``extra`` can be imported; imports nothing itself."""
    if getattr(sys, "frozen", False):
        return  # the frozen program has all it needs; its finder doesn't know of folders
    if extra == "sidecar" and (reason := unsuitable(sys.platform, platform.machine())):
        raise MissingExtra(f"{command} can't run here: {reason}")
    if missing := [name for name in MODULES[extra] if importlib.util.find_spec(name) is None]:
        raise MissingExtra(missing_text(extra, command, missing))


def missing_text(extra: str, command: str, missing: Sequence[str]) -> str:
    """Return the sentence that says what is missing and what to type."""
    return (
        f"{command} needs packages that are not installed ({', '.join(missing)}). "
        f"Install them with: {sys.executable} -m pip install 'mlx-sidecar[{extra}]'"
    )


def unsuitable(system: str, machine: str) -> str | None:
    """Return why the model server can't run on this kind of machine, or None where it can.

    MLX has wheels for Apple Silicon and Linux alone, so elsewhere pip's own words would be a riddle.
    """
    if system == "darwin" and machine != "arm64":
        if _translated():
            return (
                "this Python is an Intel program that Rosetta translates, and MLX needs a native one. "
                "Install Python for Apple Silicon (arm64) and make the environment anew with it."
            )
        return "this Mac has an Intel processor, and MLX needs Apple Silicon (M1 or newer)."
    if system == "win32":
        return "Windows is not supported; use macOS on Apple Silicon, or Linux for development."
    return None


def _translated() -> bool:
    command = ["/usr/sbin/sysctl", "-n", "sysctl.proc_translated"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5).stdout.strip() == "1"
    except (OSError, subprocess.SubprocessError):
        return False
