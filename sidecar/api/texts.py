"""Texts as prompts and inputs take them: one, several, or token ids, and each of their lists looked at as a whole."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, ValidatorFunctionWrapHandler, WrapValidator

from sidecar.api.conversation import Many


def _texts(value: Any) -> str | None:
    """Tell the form by the first item; the rest must be of its kind."""
    if isinstance(value, str):
        return "<text>"
    if not isinstance(value, list):
        return None
    first = value[0] if value else ""
    if isinstance(first, bool):
        return None
    return {str: "<texts>", int: "<tokens>", list: "<token lists>"}.get(type(first))


def _at_once(kind: type, least: int | None = None) -> WrapValidator:
    """Return what lets a list of one ``kind`` pass without a look at each item, none under ``least``.

    pydantic took 0.3 s for a million long numbers, the loops of C that are used here 0.03 s. It still tells the faults.
    """

    def validate(value: Any, look: ValidatorFunctionWrapHandler) -> Any:
        whole = type(value) is list and set(map(type, value)) <= {kind}
        return value if whole and (least is None or min(value, default=least) >= least) else look(value)

    return WrapValidator(validate)


Tokens = Annotated[Many[Annotated[int, Field(strict=True, ge=0)]], _at_once(int, 0)]
Texts = Annotated[
    Annotated[str, Tag("<text>")]
    | Annotated[Many[str], _at_once(str), Tag("<texts>")]
    | Annotated[Tokens, Tag("<tokens>")]
    | Annotated[Many[Tokens], Tag("<token lists>")],
    Discriminator(
        _texts,
        custom_error_type="texts",
        custom_error_message="give a text, a list of texts, a list of token ids, or a list of such lists",
    ),
]
