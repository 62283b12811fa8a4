"""Functions a chat's model may call, and the place to plug in more.

A package adds tools with an entry point in the group ``mlx_host.tools`` that names a function (its signature and
docstring describe it to the model) or a list of functions; a product that mounts the application passes its own
to ``host_api.app.application.build``.
"""

from __future__ import annotations

import ast
import asyncio
import logging
import math
import operator
from collections.abc import Callable, Sequence
from datetime import datetime
from importlib.metadata import entry_points
from typing import Any
from zoneinfo import ZoneInfo

from host_api.app import child

log = logging.getLogger("host.tools")
GROUP = "mlx_host.tools"

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{n: getattr(math, n) for n in ("sqrt", "sin", "cos", "tan", "exp", "log", "log10", "log2", "floor", "ceil")},
    "abs": abs,
    "round": lambda value, digits=0: _rounded(value, digits),
    "min": min,
    "max": max,
}
_NAMES = {"pi": math.pi, "e": math.e}
_LONGEST = 500
_LARGEST = 10**300
_MOST_DIGITS = 300


class CalculatorError(ValueError):
    """An expression that can't be worked out; the message says why."""


def evaluate(expression: str) -> int | float:
    """The value of an arithmetic expression; nothing but arithmetic is ever run. Raises CalculatorError."""
    text = expression.strip().replace("^", "**").replace("×", "*").replace("÷", "/").replace("\u2212", "-")
    if len(text) > _LONGEST:
        raise CalculatorError(f"the expression is longer than {_LONGEST} characters")
    try:
        value: int | float = _value(ast.parse(text, mode="eval").body)
    except CalculatorError:
        raise
    except ZeroDivisionError:
        raise CalculatorError("division by zero") from None
    except (SyntaxError, ValueError, TypeError, OverflowError, RecursionError, MemoryError) as exc:
        raise CalculatorError(f"{expression!r} can't be worked out: {exc}") from None
    return value


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return _bounded(number)
        case ast.Name(id=name) if name in _NAMES:
            return _NAMES[name]
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
            return _UNARY[type(op)](_value(operand))
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _power(_value(left), _value(right))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return _bounded(_BINARY[type(op)](_value(left), _value(right)))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            return _bounded(_FUNCTIONS[name](*[_value(a) for a in args]))
    raise CalculatorError("only numbers, + - * / // % ** and " + ", ".join(sorted(_FUNCTIONS)) + " are known")


def _power(base: Any, exponent: Any) -> Any:
    # Python would compute 9**9**9 to the last digit; refuse by the size of the result first.
    if base and abs(exponent) * math.log2(max(abs(base), 1 / abs(base))) > math.log2(_LARGEST):
        raise CalculatorError("the result is too large")
    return _bounded(base**exponent)


def _rounded(value: Any, digits: Any) -> Any:
    # Python would compute 10 to the power of as many digits as are asked for.
    if not isinstance(digits, int) or abs(digits) > _MOST_DIGITS:
        raise CalculatorError(f"give at most {_MOST_DIGITS} digits to round to")
    return round(value, digits) if digits else round(value)


def _bounded(value: Any) -> Any:
    if isinstance(value, complex):
        raise CalculatorError("the result is not a real number")
    if abs(value) > _LARGEST or value != value:
        raise CalculatorError("the result is too large")
    return value


def worked_out(expression: str) -> str:
    """Return what the model is told of an expression: its value, or what is wrong with it."""
    try:
        return str(evaluate(expression))
    except CalculatorError as exc:
        return f"Error: {exc}"


async def calculate(expression: str) -> str:
    """Work out an arithmetic expression such as (3 + 4) * 2 or sqrt(2) exactly.

    Args:
        expression: The expression.
    """
    # In a process that can be ended: Python's big numbers hold the interpreter, and every chat with it.
    limits = child.Limits(memory_mb=256, seconds=10)
    try:
        return str(await asyncio.to_thread(child.run, f"{__name__}:worked_out", expression, limits=limits))
    except child.ChildFailure as exc:
        return f"Error: {exc}"


def current_time(timezone: str = "") -> str:
    """The date and time now.

    Args:
        timezone: An IANA name such as Europe/Paris; empty for the user's own.
    """
    try:
        now = datetime.now(ZoneInfo(timezone)) if timezone else datetime.now().astimezone()
    except (KeyError, ValueError, OSError):
        return f"Error: there is no time zone {timezone!r}; use an IANA name such as Europe/Paris."
    return now.strftime("%A, %d %B %Y, %H:%M:%S %Z (UTC%z)")


Tool = Callable[..., Any]


def available(extra: Sequence[Tool] = ()) -> list[Tool]:
    """The built-in tools, those of installed packages, and ``extra``. A broken package is logged and left out."""
    found: list[Tool] = [current_time, calculate]
    for point in entry_points(group=GROUP):
        try:
            loaded = point.load()
        except Exception:
            log.exception("the tools of %r can't be loaded", point.name)
            continue
        found.extend([loaded] if callable(loaded) else loaded)
    return [*found, *extra]
