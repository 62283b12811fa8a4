"""Words for full-text search in any language: what is indexed and what is asked for go through here alike.

LanceDB splits at spaces what this gives. Its own tokenizers know one language a table, and its n-grams make every
English word a dozen pieces that match by chance; documents here mix languages. So:

- Chinese, Japanese and Korean stretches become their pairs of characters (``苹果汁`` is ``苹果 果汁``): their writing
  has no spaces, and pairs find what dictionaries would, words nobody has listed included.
- Other words lose case and accents, and give their beginning beside themselves (``harvests`` also ``harve~``), which
  finds other endings; long ones give their end, too, which finds the last part of German compounds
  (``brandschutzverordnung`` also ``~rdnung``).
- Words that every text has are left out, since they would rank a document by its ``the``; so are Chinese pairs with a
  particle (``州的`` of ``杭州的``), and those that only ask.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Set

# English, German, French, Spanish: the words that carry no subject
_WITHOUT_SUBJECT = """
a an and are as at be been but by can did do does for from had has have he her his how i if in into is it its me my no
not of on or our she so than that the their them then there these they this to was we were what when where which who
why will with would you your about any all also more most much many some such
aber als am an auch auf aus bei bin bis da damit das dass dem den der des die dies diese dieser durch ein eine einem
einen einer eines er es fur gibt hat haben hier ich ihr ihre im in ist kann kein keine man mehr mit nach nicht noch nur
ob oder ohne sehr sein seine sich sie sind so uber um und uns unter vom von vor war waren was wann wenn wer werden wie
wieder wieviel welche welcher welches wird wir wo wurde wurden zu zum zur
au aux avec ce ces cette dans de des du elle en est et il ils je la le les leur lui mais ne nous ou par pas pour que
qui se ses son sont sur un une vous como con del el ella esta este los las lo mas para pero por se sin su sus una uno y
"""
# Chinese pairs that ask or connect, and signs that do nothing else: their pairs are pieces of two words
_ASKING = """
多少 什么 怎么 怎样 如何 哪些 哪里 哪个 哪儿 为何 我们 你们 他们 她们 它们 这个 那个 这些 那些 可以 没有 一个 请问 关于
是否 以及 因为 所以 但是 如果 有没 谁的
"""
_STOP = frozenset(_WITHOUT_SUBJECT.split()) | frozenset(_ASKING.split())
_BETWEEN = frozenset("的了吗呢吧是")
_WITHOUT_SPACES = (
    r"\u1100-\u11ff\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u3130-\u318f\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97f"
    r"\uac00-\ud7ff\uf900-\ufaff\U00020000-\U0003ffff\u0e00-\u0eff\u1780-\u17ff"
)
# A word of another writing ends where such a stretch begins: "1950年就贵阳" is 1950 and a stretch.
_PIECE = re.compile(rf"([{_WITHOUT_SPACES}]+)|([^\W_{_WITHOUT_SPACES}]+(?:[.,][0-9]+)*)")
PART = 0.6  # what a shared beginning or end of a word counts beside the word
_LONG = 40  # characters; longer "words" are data


def words(text: str) -> list[str]:
    """Return the plain terms of a text in order: folded words and pairs of characters."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    found: list[str] = []
    for piece in _PIECE.finditer(_joined(folded)):
        if run := piece[1]:
            pairs = [run[i : i + 2] for i in range(len(run) - 1)] or [run]
            found += [pair for pair in pairs if pair not in _STOP and not _BETWEEN.intersection(pair)]
        else:
            word = "".join(c for c in unicodedata.normalize("NFD", piece[2]) if not unicodedata.combining(c))
            if word not in _STOP and len(word) <= _LONG:
                found.append(word)
    return found


def _joined(text: str) -> str:
    """Return a text whose Chinese and Japanese lines go on over their ends."""
    return re.sub(r"(?<=[\u2e80-\u9fff])\s*\n\s*(?=[\u2e80-\u9fff])", "", text)


def indexed(text: str) -> str:
    """Return what is indexed of a text, parted by spaces."""
    return " ".join(form for word in words(text) for form in _forms(word))


def asked(text: str) -> str:
    """Return what is looked for, each form once."""
    return " ".join(dict.fromkeys(form for word in words(text) for form in _forms(word)))


def likeness(word: str, has: Set[str]) -> float:
    """Return how much of a word is among indexed terms: 1 for itself, less for its beginning or end, or 0."""
    if word in has:
        return 1.0
    return PART if any(form in has for form in _forms(word)[1:]) else 0.0


def _forms(word: str) -> list[str]:
    if not word.isascii() and not word.isalpha():
        return [word]
    forms = [word]
    if len(word) >= 5 and word.isalpha() and not _PIECE.fullmatch(word)[1]:  # type: ignore[index]
        forms.append(f"{word[:5]}~")
        if len(word) >= 10:
            forms.append(f"~{word[-6:]}")
    return forms
