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
    "German": "was wann wo welche welcher wer warum wie hat haben kann unser mein wir ich viel in an bei aus am im",
    "French": "quoi quand où quel quelle qui pourquoi comment combien notre mon votre avons je",
    "Spanish": "qué cuándo dónde cuál quién cómo cuánto cuánta nuestro mi tiene sobre hay",
    "Italian": "che quando dove quale chi perché quanto nostro mio ha",
    "Portuguese": "quando onde qual quem quanto nosso meu tem",
    "Dutch": "wat wanneer waar welke wie waarom hoe hoeveel onze mijn heeft",
}
_WORDS = {name: frozenset(words.split()) for name, words in _COMMON.items()}


def language_of_question(text: str) -> str:
    """Return the language that a few words seem to be in; nothing where two are as likely, or none is."""
    words = re.findall(r"[^\W\d_]+", text.casefold())
    if re.search(r"[äöüß]", text.casefold()):
        return "German"
    counts = {name: sum(w in _WORDS[name] or w in more.split() for w in set(words)) for name, more in _ASKING.items()}
    best, second = sorted(counts.values(), reverse=True)[:2]
    return max(counts, key=lambda n: counts[n]) if best > second else language_of(text) if not best else ""


def language_of(text: str) -> str:
    """Return the English name of a text's language; nothing where that can't be told.

    Japanese is told from Chinese by its kana: a tenth of its signs are enough.
    """
    text = text[:20_000].casefold()
    letters = sum(c.isalpha() for c in text)
    for name, signs in _SCRIPTS:
        if letters and len(signs.findall(text)) > (0.1 if name in ("Japanese", "Korean") else 0.3) * letters:
            return name
    words = re.findall(r"[^\W\d_]+", text)
    counts = {name: sum(w in common for w in words) for name, common in _WORDS.items()}
    best = max(counts, key=lambda n: counts[n])
    return best if counts[best] >= 2 and counts[best] > 0.08 * len(words) else ""
