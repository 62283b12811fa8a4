"""Drawn pydantic models, for tests and stress runs that ask for documents and calls of their schemas."""

from __future__ import annotations

from enum import Enum
from typing import Any, Literal, Optional

import pydantic
from hypothesis import strategies as st


class _Colour(Enum):
    RED = "red"
    BLUE = "blue"


class _Node(pydantic.BaseModel):
    value: int
    next: _Node | None = None


def _model(fields: dict[str, Any]) -> Any:
    create: Any = pydantic.create_model
    return create("Drawn", **{k: (t, ...) for k, t in fields.items()})


_SIMPLE: list[Any] = [
    str, int, float, bool, None, _Colour, _Node, Literal["a", 1, True], list[int], dict[str, int], tuple[int, str], Any,
    dict[Literal["x", "y"], bool], pydantic.conint(ge=3, lt=9), pydantic.constr(min_length=2, max_length=4),
    pydantic.constr(pattern=r"^[a-c]{2,3}$"), pydantic.conlist(int, min_length=1, max_length=3), set[int],
    pydantic.UUID4, pydantic.AwareDatetime, pydantic.SecretStr,
]  # fmt: skip
_TYPES = st.recursive(
    st.sampled_from(_SIMPLE),
    lambda inner: st.one_of(
        inner.map(lambda t: list[t]),  # type: ignore[valid-type]
        inner.map(lambda t: Optional[t]),  # noqa: UP045
        st.tuples(inner, inner).map(lambda p: p[0] | p[1] if p[0] is not None and p[1] is not None else p[0]),
        st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=3).map(_model),
    ),
    max_leaves=5,
)
FIELDS = st.dictionaries(st.sampled_from(["a", "b", "ключ"]), _TYPES, min_size=1, max_size=3)
"""The fields of a model, by name."""


def schema_of(fields: dict[str, Any]) -> dict[str, Any] | None:
    """Return the JSON schema of a model of such fields; None where pydantic has none for it."""
    try:
        found: dict[str, Any] = _model(fields).model_json_schema()
    except (pydantic.errors.PydanticSchemaGenerationError, TypeError):
        return None
    return found
