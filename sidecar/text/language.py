"""What a model's words are like: its vocabulary, its template, its markup. Made once a model, kept with it."""

from __future__ import annotations

import copy
import threading
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

from sidecar.backend.loader import LoadedModel
from sidecar.engine.grammar import Grammars
from sidecar.text import thinking
from sidecar.text.detokenizer import Symbols, Vocabulary
from sidecar.text.harmony import is_harmony
from sidecar.text.tool_calls import HERMES, Markup, markup_of
from sidecar.text.user_text import UserText

_known: WeakKeyDictionary[LoadedModel, Language] = WeakKeyDictionary()
_lock = threading.Lock()


def language_of(loaded: LoadedModel, template: str = "") -> Language:
    """Return a model's language, the same one every time; with a ``template`` given as if it were the model's own."""
    with _lock:
        found = _known.get(loaded)
        if found is None:
            found = _known[loaded] = Language(loaded)
    return found.with_template(template) if template else found


class Language:
    """The words of one model. ``template``: its chat template, "" without one."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.vocabulary = Vocabulary(loaded.tokenizer)
        self.template = _template_of(loaded)
        self.grammars = Grammars(lambda: self.vocabulary.tokens, sorted(self.vocabulary.special), loaded.eos)
        self._tokenizer = loaded.tokenizer
        self._sees = loaded.sees or not loaded.can.hear

    def with_template(self, template: str) -> Language:
        """Return the language with another template; vocabulary and grammars are the same."""
        other = copy.copy(self)
        for derived in ("markup", "thinking"):
            other.__dict__.pop(derived, None)
        other.template = template
        return other

    @property
    def knows_tools(self) -> bool:
        """Whether the template itself renders tools."""
        return "tools" in self.template

    @cached_property
    def markup(self) -> Markup:
        """How the model writes calls."""
        return markup_of(self.template) if self.knows_tools else HERMES

    @property
    def harmony(self) -> bool:
        """Whether answers come in channels."""
        return is_harmony(self.template)

    @cached_property
    def thinking(self) -> thinking.ThinkingMarkers | None:
        """How the model marks a thought; None when it has none, or channels for them."""
        return None if self.harmony else thinking.markers_of(self.template)

    def tokens(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a marker."""
        return tuple(int(i) for i in self._tokenizer(text, add_special_tokens=False)["input_ids"])

    @property
    def thinks(self) -> bool:
        """Whether the model reasons before it answers."""
        return self.harmony or self.thinking is not None

    @cached_property
    def user_text(self) -> UserText:
        """What keeps markers in users' texts apart from control tokens."""
        return UserText(self.vocabulary, self._tokenizer, sees=self._sees)

    def symbols(self) -> Symbols:
        """Return the control tokens as symbols, for one answer."""
        return Symbols(self.vocabulary)


def _template_of(loaded: LoadedModel) -> str:
    for owner in (loaded.processor, loaded.tokenizer):
        template: Any = getattr(owner, "chat_template", None)
        if isinstance(template, dict):
            template = template.get("tool_use") or template.get("default")
        if isinstance(template, str) and template:
            return template
    return ""
