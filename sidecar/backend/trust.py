"""Nothing of a model folder is executed, and nothing is fetched while one is loaded.

A model folder is data: numbers, tables, a chat template. It can ask for more: mlx-vlm
runs the Python file that ``model_file`` names, and transformers the classes that ``auto_map`` names, out of the folder
or out of any repository of the hub; many of mlx-vlm's processors pass ``trust_remote_code=True`` without being asked.
Three things are done about it:

* ``refuse_code`` looks at the folder before anything of it is read by a library, and refuses what says that it needs
  its own code.
* ``harden`` takes the functions away by which transformers finds and executes such code, for the whole process, so that
  no argument of any library can bring them back. An ``auto_map`` is then a note that nobody reads: a family that
  mlx-vlm and transformers have is loaded by their own classes, and any other ends in a clear error.
* ``harden`` also puts a sandbox around every chat template. transformers has one; the processors of some families of
  mlx-vlm (Kimi-VL, Molmo, Phi-3 Vision, ERNIE) render the folder's template with Jinja's plain environment, in which a
  template reaches Python's own functions through any object's attributes.

The hub's library believes that it is offline, on every thread but one that downloads (``online``).
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from sidecar.backend.folder import read_document, wants_code
from sidecar.errors import LoadError

_here = threading.local()


class CodeRefused(ValueError):
    """A model folder wants code of its own to be executed."""


def refuse_code(path: Path, config: dict[str, Any]) -> None:
    """Raise LoadError for a model folder that can't be loaded without its own code. ``config``: its config.json."""
    tokenizer = read_document(path / "tokenizer_config.json")
    if why := wants_code(config, tokenizer, (file.name for file in path.iterdir())):
        raise LoadError(f"{path.name} can't be loaded: {why}, and this program executes nothing of a model.")


def _refuse(*_: Any, **__: Any) -> NoReturn:
    raise CodeRefused("it wants Python code of its own to be run, and this program executes nothing of a model")


def _never(
    trust_remote_code: Any, model_name: Any, has_local_code: bool, has_remote_code: bool, *_: Any, **__: Any
) -> bool:
    """Stand in for transformers' ``resolve_trust_remote_code``: no, whoever asks."""
    if has_remote_code and not has_local_code:
        _refuse()
    return False


class _OfflineUnlessAsked:
    """The hub's switch: true on every thread but those that download."""

    def __init__(self, set_by_user: bool) -> None:
        self._set_by_user = set_by_user

    def __bool__(self) -> bool:
        return self._set_by_user or not getattr(_here, "online", False)


@contextlib.contextmanager
def online() -> Iterator[None]:
    """Let the hub's library use the network on this thread while the block runs."""
    before = getattr(_here, "online", False)
    _here.online = True
    try:
        yield
    finally:
        _here.online = before


@cache
def harden() -> None:
    """Take away what executes a model's code, and the network, from the libraries. Call before the first load."""
    import jinja2.environment
    from huggingface_hub import constants
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from transformers import dynamic_module_utils as dynamic

    replacements = {
        "get_class_from_dynamic_module": _refuse,
        "get_class_in_module": _refuse,
        "get_cached_module_file": _refuse,
        "resolve_trust_remote_code": _never,
    }
    for name, replacement in replacements.items():
        original = getattr(dynamic, name)
        for module in list(sys.modules.values()):  # many modules hold them by name
            if getattr(module, "__name__", "").partition(".")[0] in ("transformers", "mlx_vlm"):
                held = vars(module)
                for key in [k for k, value in held.items() if value is original]:
                    setattr(module, key, replacement)
    # Whoever makes an environment or a template from now on gets one in the sandbox that transformers uses.
    jinja2.Template.environment_class = ImmutableSandboxedEnvironment
    jinja2.Environment = jinja2.environment.Environment = ImmutableSandboxedEnvironment  # type: ignore[misc]
    constants.HF_HUB_OFFLINE = _OfflineUnlessAsked(bool(constants.HF_HUB_OFFLINE))  # type: ignore[assignment]
