"""JSON schemas as a grammar can hold an answer to them: made ready, or refused with the path of what can't be held."""

from sidecar.text.schemas.compile import json_rule
from sidecar.text.schemas.prepare import Prepared, SchemaError, arguments_schema, response_schema

__all__ = ["Prepared", "SchemaError", "arguments_schema", "json_rule", "response_schema"]
