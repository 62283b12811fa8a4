"""How each family of models writes a tool call.

A ``Markup`` is a table entry, and grammar and reader are made from it alone: a new family is a new entry. Calls come in
groups::

    begin  head NAME mid ARGUMENTS tail  [sep  head NAME mid ARGUMENTS tail] …  end

and groups follow each other, ``between`` apart. The markers are written as the chat templates write them. Those that
are one control token in the model's vocabulary are that token in the grammar, and letters otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Arguments(Enum):
    """How the arguments are written."""

    JSON = "json"  # an object
    TAGS = "tags"  # a tag for each, strings bare, everything else as JSON
    PYTHON = "python"  # keyword=literal, separated by commas
    GEMMA = "gemma"  # key:value, separated by commas, strings between <|"|>


@dataclass(frozen=True, kw_only=True)
class Markup:
    """The markup of one family. ``sep`` None: a group has one call.

    ``key``, ``value``, ``done``: what stands before a name, between it and its value, and after that, in TAGS.
    ``lines``: each value stands on lines of its own. ``only``: an answer in it is nothing but calls.
    """

    name: str
    begin: str = ""
    head: str = ""
    mid: str = ""
    tail: str = ""
    end: str = ""
    sep: str | None = None
    between: str = "\n"
    arguments: Arguments = Arguments.JSON
    key: str = ""
    value: str = ""
    done: str = ""
    lines: bool = False
    only: bool = False


def _json(name: str, *, key: str = "name", arguments: str = "arguments") -> tuple[str, str]:
    return f'{{"{key}": "', f'", "{arguments}": '


_HEAD, _MID = _json("name")

HERMES = Markup(name="hermes", begin="<tool_call>", head="\n" + _HEAD, mid=_MID, tail="}\n", end="</tool_call>")
"""JSON in ``<tool_call>``: Hermes, Qwen 2.5 and 3, Granite 4, SmolLM 3, and models whose template knows no tools."""

BARE = Markup(name="bare", head=_HEAD, mid=_MID, tail="}", sep="\n", only=True)
"""Nothing but JSON, an object a line: what a model without tools in its template is forced to write."""

_FAMILIES: tuple[tuple[tuple[str, ...], Markup], ...] = (
    (
        ("<|channel|>", "<|message|>", "functions."),
        Markup(name="harmony", begin="<|channel|>commentary to=", head="functions.", tail="<|call|>"),
    ),
    (
        ("<|tool_call>", "<tool_call|>"),
        Markup(
            name="gemma4",
            begin="<|tool_call>",
            head="call:",
            mid="{",
            tail="}",
            end="<tool_call|>",
            between="",
            arguments=Arguments.GEMMA,
        ),
    ),
    (
        ("<|tool_call_start|>",),
        Markup(
            name="pythonic",
            begin="<|tool_call_start|>[",
            mid="(",
            tail=")",
            sep=", ",
            end="]<|tool_call_end|>",
            arguments=Arguments.PYTHON,
        ),
    ),
    (
        ("<｜tool▁calls▁begin｜>", "```json"),
        Markup(
            name="deepseek-v3",
            begin="<｜tool▁calls▁begin｜>",
            head="<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
            mid="\n```json\n",
            tail="\n```<｜tool▁call▁end｜>",
            sep="\n",
            end="<｜tool▁calls▁end｜>",
        ),
    ),
    (
        ("<｜tool▁calls▁begin｜>",),
        Markup(
            name="deepseek-v3.1",
            begin="<｜tool▁calls▁begin｜>",
            head="<｜tool▁call▁begin｜>",
            mid="<｜tool▁sep｜>",
            tail="<｜tool▁call▁end｜>",
            sep="",
            end="<｜tool▁calls▁end｜>",
        ),
    ),
    (
        ("<|tool_calls_section_begin|>",),
        Markup(
            name="kimi-k2",
            begin="<|tool_calls_section_begin|>",
            head="<|tool_call_begin|>functions.",
            mid=":0<|tool_call_argument_begin|>",
            tail="<|tool_call_end|>",
            sep="",
            end="<|tool_calls_section_end|>",
        ),
    ),
    (
        ("<|START_ACTION|>",),
        Markup(
            name="cohere",
            begin="<|START_ACTION|>[\n",
            head='    {"tool_call_id": "0", "tool_name": "',
            mid='", "parameters": ',
            tail="}",
            sep=",\n",
            end="\n]<|END_ACTION|>",
        ),
    ),
    (
        ("<minimax:tool_call>",),
        Markup(
            name="minimax-m2",
            begin="<minimax:tool_call>\n",
            head='<invoke name="',
            mid='">\n',
            tail="</invoke>\n",
            sep="",
            end="</minimax:tool_call>",
            arguments=Arguments.TAGS,
            key='<parameter name="',
            value='">',
            done="</parameter>\n",
        ),
    ),
    (
        ("<function name=", "<param name="),
        Markup(
            name="minicpm5",
            begin='<function name="',
            mid='">',
            tail="</function>",
            arguments=Arguments.TAGS,
            key='<param name="',
            value='">',
            done="</param>",
        ),
    ),
    (
        ("<longcat_tool_call>",),
        Markup(
            name="longcat",
            begin="<longcat_tool_call>",
            mid="\n",
            end="</longcat_tool_call>",
            arguments=Arguments.TAGS,
            key="<longcat_arg_key>",
            value="</longcat_arg_key>\n<longcat_arg_value>",
            done="</longcat_arg_value>\n",
        ),
    ),
    (
        ("<arg_key>", "</arg_key>\n<arg_value>"),
        Markup(
            name="glm4.5",
            begin="<tool_call>",
            mid="\n",
            end="</tool_call>",
            arguments=Arguments.TAGS,
            key="<arg_key>",
            value="</arg_key>\n<arg_value>",
            done="</arg_value>\n",
        ),
    ),
    (
        ("<arg_key>",),
        Markup(
            name="glm4.7",
            begin="<tool_call>",
            end="</tool_call>",
            between="",
            arguments=Arguments.TAGS,
            key="<arg_key>",
            value="</arg_key><arg_value>",
            done="</arg_value>",
        ),
    ),
    (
        ("<seed:tool_call>", "<function="),
        Markup(
            name="seed-oss",
            begin="<seed:tool_call>",
            head="\n<function=",
            mid=">\n",
            tail="</function>\n",
            end="</seed:tool_call>",
            arguments=Arguments.TAGS,
            key="<parameter=",
            value=">",
            done="</parameter>\n",
        ),
    ),
    (
        ("<tool_call>", "<function=", "<parameter="),
        Markup(
            name="qwen3-coder",
            begin="<tool_call>",
            head="\n<function=",
            mid=">\n",
            tail="</function>\n",
            end="</tool_call>",
            arguments=Arguments.TAGS,
            key="<parameter=",
            value=">",
            done="</parameter>\n",
            lines=True,
        ),
    ),
    (
        ("[TOOL_CALLS]", "[ARGS]"),
        Markup(name="mistral-v11", begin="[TOOL_CALLS]", mid="[ARGS]", between=""),
    ),
    (
        ("[TOOL_CALLS]",),
        Markup(name="mistral", begin="[TOOL_CALLS] [", head=_HEAD, mid=_MID, tail="}", sep=", ", end="]"),
    ),
    (
        ("<|tool_call|>",),  # Granite 3
        Markup(name="granite3", begin="<|tool_call|>[", head=_HEAD, mid=_MID, tail="}", sep=", ", end="]"),
    ),
    (
        ("<|python_tag|>", '"parameters": '),
        Markup(name="llama3", head=_HEAD, mid='", "parameters": ', tail="}", sep="; "),
    ),
    (("<tool_call>",), HERMES),
)


def markup_of(template: str) -> Markup:
    """Return the markup that a chat template shows; JSON in ``<tool_call>`` where it shows none."""
    plain = template.replace("\\n", "\n")
    for signs, markup in _FAMILIES:
        if all(sign in plain for sign in signs):
            return markup
    return HERMES
