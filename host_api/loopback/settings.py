"""Settings as one table: a frozen dataclass whose fields are flags, environment variables and a help text at once.

Field ``drain_timeout`` of a class whose prefix is ``MLX_SIDECAR_`` is the flag ``--drain-timeout`` and the environment
variable ``MLX_SIDECAR_DRAIN_TIMEOUT``. The command line wins over the environment, which wins over the default.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, field, fields
from pathlib import Path
from typing import Any, TypeVar

from host_api.loopback import durations

T = TypeVar("T")


class ConfigError(Exception):
    """A setting that can't be used; the message names it and says what to do. Exit code 78."""


def option(
    default: Any,
    text: str,
    *,
    group: str = "general",
    choices: Sequence[Any] | None = None,
    least: float | None = None,
    most: float | None = None,
    seconds: bool = False,
    check: Callable[[Any], str | None] | None = None,
) -> Any:
    """Return a dataclass field. ``default`` may be a function that makes it.

    ``seconds`` takes times such as 90, 5m or 1h30m. ``check`` returns what is wrong with a value, or None.
    """
    meta = {
        "help": text,
        "group": group,
        "choices": tuple(choices) if choices else None,
        "least": least,
        "most": most,
        "seconds": seconds,
        "check": check,
    }
    if callable(default):
        return field(default_factory=default, metadata=meta)
    return field(default=default, metadata=meta)


def flag_of(name: str) -> str:
    """Return the flag of a field."""
    return "--" + name.replace("_", "-")


def variable_of(prefix: str, name: str) -> str:
    """Return the environment variable of a field."""
    return prefix + name.upper()


def _is_flag(f: Field[Any]) -> bool:
    return str(f.type) == "bool"


def _is_list(f: Field[Any]) -> bool:
    return str(f.type).startswith("tuple")


def _parse(f: Field[Any], text: str) -> Any:
    """Return the value of one written setting. Raises ValueError that says what to give."""
    kind = str(f.type)
    if "Path" in kind:
        return Path(text).expanduser()
    if f.metadata["seconds"]:
        return durations.seconds(text)
    if kind.startswith(("int", "float")):
        try:
            return int(text) if kind.startswith("int") else float(text)
        except ValueError:
            raise ValueError("give a whole number" if kind.startswith("int") else "give a number") from None
    return text


def _argument(f: Field[Any]) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            return _parse(f, text)
        except ValueError as exc:
            raise argparse.ArgumentTypeError(f"{text!r}: {exc}") from None

    return parse


def _default(f: Field[Any]) -> str:
    """Return how a default reads in a help text; nothing for one that says nothing."""
    if f.default is MISSING or f.default in (None, "", (), False) or _is_flag(f):
        return ""
    return f"; default {f.default:g}" if isinstance(f.default, float) else f"; default {f.default}"


def add_arguments(
    parser: argparse.ArgumentParser, table: type[Any], prefix: str, names: Sequence[str] | None = None
) -> None:
    """Add a flag for every setting of ``table`` (or those named) to ``parser``, in groups; unset flags stay None."""
    groups: dict[str, Any] = {}
    for f in fields(table):
        if names is not None and f.name not in names:
            continue
        title = f.metadata["group"]
        if title not in groups:
            groups[title] = parser if names is not None else parser.add_argument_group(title)
        text = f"{f.metadata['help']}{_default(f)} [{variable_of(prefix, f.name)}]".replace("%", "%%")
        options: dict[str, Any] = {"dest": f.name, "default": None, "help": text}
        if _is_flag(f):
            options["action"] = argparse.BooleanOptionalAction
        else:
            options |= {"type": _argument(f), "action": "append" if _is_list(f) else "store"}
            if f.metadata["choices"]:
                options["choices"] = f.metadata["choices"]
            else:
                options["metavar"] = f.name.rpartition("_")[2].upper()
        groups[title].add_argument(flag_of(f.name), **options)


def _from_env(f: Field[Any], variable: str, raw: str) -> Any:
    if _is_flag(f):
        word = raw.strip().lower()
        if word in ("1", "true", "yes", "on"):
            return True
        if word in ("0", "false", "no", "off", ""):
            return False
        raise ConfigError(f"{variable}={raw!r}: say 1 or 0")
    # Paths are parted as in PATH, all else (URLs have colons) by commas.
    parts = raw.split(os.pathsep if "Path" in str(f.type) else ",") if _is_list(f) else [raw]
    try:
        found = [_parse(f, part.strip() if _is_list(f) else part) for part in parts if part.strip() or not _is_list(f)]
    except ValueError as exc:
        raise ConfigError(f"{variable}={raw!r}: {exc}") from exc
    choices = f.metadata["choices"]
    if choices and found[0] not in choices:
        raise ConfigError(f"{variable}={raw!r}: choose one of {', '.join(map(str, choices))}")
    return tuple(found) if _is_list(f) else found[0]


def load(
    table: type[T], prefix: str, args: argparse.Namespace | None = None, env: Mapping[str, str] | None = None
) -> T:
    """Return a ``table`` from parsed flags over environment over defaults. Raises ConfigError."""
    env = os.environ if env is None else env
    values: dict[str, Any] = {}
    for f in fields(table):  # type: ignore[arg-type]
        given = getattr(args, f.name, None) if args is not None else None
        variable = variable_of(prefix, f.name)
        if given is not None:
            values[f.name] = tuple(given) if _is_list(f) else given
        elif raw := env.get(variable, ""):
            values[f.name] = _from_env(f, variable, raw)
        if f.name in values:
            _check(f, values[f.name])
    return table(**values)


def _check(f: Field[Any], value: Any) -> None:
    least, most, check = (f.metadata[name] for name in ("least", "most", "check"))
    problem = None
    if least is not None and most is not None and not least <= value <= most:
        problem = f"give {least:g} to {most:g}"
    elif least is not None and not value >= least:
        problem = f"give at least {least:g}"
    elif check is not None:
        for one in value if _is_list(f) else (value,):
            problem = problem or check(one)
    if problem:
        shown = ", ".join(map(str, value)) if _is_list(f) else value
        raise ConfigError(f"{flag_of(f.name)} {shown}: {problem}")


def read_key(path: Path | None, flag: str = "--api-key-file") -> str | None:
    """Return the key on the first line of a file, or None without one. Raises ConfigError."""
    if path is None:
        return None
    try:
        text = path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{flag} {path}: can't be read ({exc})") from exc
    if not text:
        raise ConfigError(f"{flag} {path}: is empty; put the key on its first line")
    return text.splitlines()[0].strip()
