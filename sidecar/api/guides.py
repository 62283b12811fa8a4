"""What an answer's words are held to, from whichever of the many fields says it."""

from __future__ import annotations

import json
from typing import Any

from sidecar.api.conversation import ResponseFormat
from sidecar.api.schemas import SamplingFields, StructuredOutputs
from sidecar.engine.asked import Guide
from sidecar.errors import bad_request


def guide_of(body: SamplingFields) -> Guide | None:
    """Return the guide of a body; None where the words are free. Raises ApiError, also where two fields say one."""
    found = [_of_format(body.response_format), *_of_fields(body), *_of_structured(body.structured_outputs)]
    guides = [one for one in found if one is not None]
    if len(guides) > 1:
        first, second = guides[0].place.split(".")[0], guides[1].place
        raise bad_request(f"{second} and {first} exclude each other: give one of them.", param=second.split(".")[0])
    return guides[0] if guides else None


def _of_format(form: ResponseFormat | None) -> Guide | None:
    if form is None or form.type == "text":
        return None
    schema: Any = form.schema_
    if form.type == "json_schema":
        schema = form.json_schema.schema_ if form.json_schema else form.schema_
        if schema is None:
            raise bad_request("response_format.json_schema.schema is missing.", param="response_format")
        if isinstance(schema, bool):
            raise bad_request("response_format.json_schema.schema: give an object.", param="response_format")
    if schema is None:
        return Guide(kind="json_object", place="response_format")
    strict = bool(form.json_schema and form.json_schema.strict)
    return Guide(kind="json_schema", place="response_format.json_schema.schema", schema=schema, strict=strict)


def _of_fields(body: SamplingFields) -> list[Guide | None]:
    return [
        _schema(body.guided_json, "guided_json"),
        _schema(body.json_schema, "json_schema"),
        _text("regex", body.guided_regex, "guided_regex"),
        _choice(body.guided_choice, "guided_choice"),
        _text("grammar", body.guided_grammar, "guided_grammar"),
        _text("grammar", body.grammar, "grammar"),
    ]


def _of_structured(given: StructuredOutputs | None) -> list[Guide | None]:
    if given is None:
        return []
    for name in ("structural_tag", "whitespace_pattern"):
        if getattr(given, name) is not None:
            raise bad_request(
                f"structured_outputs.{name} is not supported: use tools or a schema.",
                param=f"structured_outputs.{name}",
                code="unsupported_parameter",
            )
    place = "structured_outputs"
    return [
        _schema(given.json_, f"{place}.json"),
        _text("regex", given.regex, f"{place}.regex"),
        _choice(given.choice, f"{place}.choice"),
        _text("grammar", given.grammar, f"{place}.grammar"),
        Guide(kind="json_object", place=f"{place}.json_object") if given.json_object else None,
    ]


def _schema(given: dict[str, Any] | str | None, place: str) -> Guide | None:
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError) as exc:
            raise bad_request(f"{place}: this text is no JSON ({str(exc)[:200]}).", param=place) from exc
        if not isinstance(given, dict):
            raise bad_request(f"{place}: a JSON schema is an object.", param=place)
    return None if given is None else Guide(kind="json_schema", place=place, schema=given)


def _text(kind: str, given: str | None, place: str) -> Guide | None:
    return Guide(kind=kind, place=place, texts=(given,)) if given else None  # "" is llama.cpp's "none"


def _choice(given: list[str] | None, place: str) -> Guide | None:
    return None if given is None else Guide(kind="choice", place=place, texts=tuple(given))
