"""All of tool calls: the markup of each family, the grammar that holds a model to it, and its reader."""

from sidecar.text.tool_calls.grammar import CallRules, call_rules
from sidecar.text.tool_calls.markup import BARE, HERMES, Markup, markup_of
from sidecar.text.tool_calls.reader import ToolReader

__all__ = ["BARE", "HERMES", "CallRules", "Markup", "ToolReader", "call_rules", "markup_of"]
