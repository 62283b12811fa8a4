"""Thoughts: how a model's template marks them, and their separation from the answer."""

from __future__ import annotations

from dataclasses import dataclass

from sidecar.text.stops import held_back


@dataclass(frozen=True)
class ThinkingMarkers:
    """What stands before and after a thought."""

    start: str
    end: str


THINK = ThinkingMarkers("<think>", "</think>")
_FAMILIES = (
    THINK,
    ThinkingMarkers("[THINK]", "[/THINK]"),  # Magistral
    ThinkingMarkers("<|channel>thought", "<channel|>"),  # Gemma 4
    ThinkingMarkers("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A
    ThinkingMarkers("<mm:think>", "</mm:think>"),  # MiniMax M3
    ThinkingMarkers("<longcat_think>", "</longcat_think>"),
    ThinkingMarkers("<seed:think>", "</seed:think>"),
    ThinkingMarkers("◁think▷", "◁/think▷"),  # Kimi VL
)


def markers_of(template: str) -> ThinkingMarkers | None:
    """Return the markers a chat template knows; None for a model that answers without a thought."""
    for family in _FAMILIES:
        if family.start in template:
            return family
    return THINK if "enable_thinking" in template else None


def can_be_off(template: str) -> bool:
    """Return whether the template has a switch for thinking."""
    return "enable_thinking" in template


def opens_thought(prompt: str, markers: ThinkingMarkers | None) -> bool:
    """Return whether a prompt's text ends inside a thought, so that the answer begins with one."""
    return markers is not None and prompt.rstrip().endswith(markers.start)


class ReasoningSplitter:
    """Separates one thought at the beginning of an answer from what follows it.

    ``markers`` None: all is content. ``inside``: the prompt opened the thought already. The space around a thought
    belongs to its markup and is not shown.
    """

    def __init__(self, markers: ThinkingMarkers | None, *, inside: bool = False) -> None:
        self._start, self._end = (markers.start, markers.end) if markers else ("", "")
        self._mode = "off" if markers is None else "inside" if inside else "start"
        self._began = False  # the thought has a visible character
        self._held = ""

    @property
    def thinking(self) -> bool:
        """Whether a thought is open."""
        return self._mode == "inside"

    def feed(self, text: str) -> tuple[str, str]:
        """Return what became clear, as (reasoning, content)."""
        if self._mode == "off":
            return "", text
        text = self._held + text
        self._held = ""
        if self._mode == "start":
            bare = text.lstrip()
            if bare.startswith(self._start):
                self._mode, text = "inside", bare[len(self._start) :]
            elif self._start.startswith(bare):
                self._held = text
                return "", ""
            else:
                self._mode = "off"
                return "", text
        if self._mode == "inside":
            thought, end, rest = text.partition(self._end)
            if end:
                self._mode = "after"
                return self._thought(thought.rstrip()), self._begin(rest)
            keep = held_back(text, (self._end,))
            # Space before the end marker is not part of the thought.
            keep = max(keep, len(text) - len(text[: len(text) - keep].rstrip()))
            self._held = text[len(text) - keep :] if keep else ""
            return self._thought(text[: len(text) - keep]), ""
        return "", self._begin(text)

    def _thought(self, text: str) -> str:
        if not self._began:
            text = text.lstrip()
            self._began = bool(text)
        return text

    def _begin(self, text: str) -> str:
        text = text.lstrip()
        if text:
            self._mode = "off"
        return text

    def finish(self) -> tuple[str, str]:
        """Return what was held back."""
        held, self._held = self._held, ""
        return (self._thought(held.rstrip()), "") if self._mode == "inside" else ("", held)
