"""Which language a text is in, as far as telling a model needs it."""

from __future__ import annotations

import re

_SCRIPTS = (
    ("Japanese", re.compile(r"[\u3041-\u3096\u30a1-\u30fa]")),
    ("Korean", re.compile(r"[\uac00-\ud7a3]")),
    ("Chinese", re.compile(r"[\u4e00-\u9fff]")),
    ("Arabic", re.compile(r"[\u0600-\u06ff]")),
    ("Hebrew", re.compile(r"[\u05d0-\u05ea]")),
    ("Greek", re.compile(r"[\u0370-\u03ff]")),
    ("Thai", re.compile(r"[\u0e00-\u0e7f]")),
    ("Hindi", re.compile(r"[\u0900-\u097f]")),
    ("Russian", re.compile(r"[\u0400-\u04ff]")),
)
_COMMON = {
    "English": "the and of to in is that for it with as was on are be this have from or at by not you we which",
    "German": "der die das und ist nicht ein eine zu den mit von auf für im dem sich des auch als wird werden sind",
    "French": "le la les des et est une un dans que pour qui sur pas avec ce sont par plus du au cette nous vous",
    "Spanish": "el la los las de y que en un una es por con para no se del al lo como más su está son",
    "Italian": "il lo la gli le di e che un una è per con non si del della sono da in come più anche nel",
    "Portuguese": "o a os as de e que em um uma é por com para não se do da no na mais como foi são ao",
    "Dutch": "de het een en van is dat niet op te zijn voor met die in aan er om ook als bij wordt naar",
}
_ASKING = {
    "English": "a an what when where which who whose why how does did do can our my your about any all has had",
    "German": "was wann wo welche welcher wer warum wie hat haben kann unser mein wir ich viel in an bei aus am im wir "
    "sie "
    "war waren nach über wenn nur oder aber man noch einen einem eines einer kein keine ihr sein heute morgen bitte "
    "beim zum zur",
    "French": "quoi quand où quel quelle qui pourquoi comment combien notre mon votre avons je",
    "Spanish": "qué cuándo dónde cuál quién cómo cuánto cuánta nuestro mi tiene sobre hay",
    "Italian": "che quando dove quale chi perché quanto nostro mio ha",
    "Portuguese": "quando onde qual quem quanto nosso meu tem",
    "Dutch": "wat wanneer waar welke wie waarom hoe hoeveel onze mijn heeft",
}
_LETTERS = {
    "German": "äöüß",
    "French": "çèêëîïôûœ",
    "Spanish": "ñ¿¡",
    "Portuguese": "ãõ",
    "Italian": "ìòù",
}
_SHORT = 60  # words; a shorter text is judged by how it asks too
_WORDS = {name: frozenset(words.split()) for name, words in _COMMON.items()}
_ALL = {name: _WORDS[name] | frozenset(_ASKING[name].split()) for name in _COMMON}


def language_of_question(text: str) -> str:
    """Return the language that a few words seem to be in; nothing where two are as likely, or none is."""
    return _by_script(text) or _of_few(re.findall(r"[^\W\d_]+", text.casefold()))


def _of_few(words: list[str]) -> str:
    """Return the language of a few words by those that fewest languages share: "in" says less than "wird"."""
    found = set(words)
    weight = {word: sum(word in known for known in _ALL.values()) for word in found}
    scores = {name: sum(1 / weight[word] for word in found & known) for name, known in _ALL.items()}
    for name, letters in _LETTERS.items():
        scores[name] += sum(any(c in letters for c in word) for word in found)
    best, second = sorted(scores, key=lambda n: -scores[n])[:2]
    return best if scores[best] >= 1 and scores[best] > scores[second] * 1.2 else ""


def language_of(text: str) -> str:
    """Return the English name of a text's language; nothing where that can't be told.

    Japanese is told from Chinese by its kana: a tenth of its signs are enough.
    """
    text = text[:20_000].casefold()
    if by_script := _by_script(text):
        return by_script
    words = re.findall(r"[^\W\d_]+", text)
    if len(words) < _SHORT:
        return _of_few(words)
    counts = {name: sum(w in common for w in words) for name, common in _WORDS.items()}
    best = max(counts, key=lambda n: counts[n])
    return best if counts[best] >= 2 and counts[best] > 0.08 * len(words) else ""


def _by_script(text: str) -> str:
    letters = sum(c.isalpha() for c in text)
    for name, signs in _SCRIPTS:
        if letters and len(signs.findall(text)) > (0.1 if name in ("Japanese", "Korean") else 0.3) * letters:
            return name
    return ""
