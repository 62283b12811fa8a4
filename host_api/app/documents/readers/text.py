"""From bytes to words: which encoding a text file has, and how sure that is.

A byte-order mark is certain, a charset that the file names is believed, UTF-8 proves itself. Everything else is a
guess. charset-normalizer guesses well by the languages it knows, given enough of them; of a CSV with two Chinese
words it makes Korean. So short texts are judged by how common their characters are: a decoding is likely when its
characters are among those that the encoding's own languages use most.
"""

from __future__ import annotations

import codecs
import itertools
import re
import unicodedata

from host_api.app.documents.content import Limits, PageBuilder, Reading, unsupported

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16: its mark begins with UTF-16's
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SAMPLE = 64_000
_ENOUGH = 60  # characters beyond ASCII, from which on charset-normalizer knows better
_EAST = 0.5  # likelihood from which on an Eastern encoding whose signs are all common ones is taken
_LEAST = 0.45  # likelihood below which a text is refused
_EASTERN = ("gb18030", "big5", "cp932", "euc_jp", "cp949")
_WESTERN = ("cp1252", "cp1251", "koi8_r", "cp1250", "cp1253", "cp1254", "cp1255", "cp1256", "cp437", "mac_roman")
_COMMON = {
    "gb18030": "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里"
    "用道行所然家种事成方多经么去法学如都同现当没动面起看定天分还进好小部其些主样理心她本前开但因只从想实日军者意无"
    "力它与长把机十民第公此已工使情明性知全三又关点正业外将两高间由问很最重并物手应战向头文体政美相见被利什二等产新"
    "名价格苹果数量单位地址日期电话姓名城市项目备注号码金额合计编号类型",
    "big5": "的一是不了在人有我他這個們中來上大為和國地到以說時要就出會可也你對生能而子那得於著下自之年過發後作裡"
    "用道行所然家種事成方多經麼去法學如都同現當沒動面起看定天分還進好小部其些主樣理心她本前開但因只從想實日者意無"
    "名稱價格蘋果數量單位地址日期電話姓名城市項目備註號碼金額合計編號類型",
    "cp949": "이다는을가에의고하지은로도사를기한어자인나리시아서정대라있일그해전것수만과보부장상구제주동공여면당경신세"
    "국들으관원적화성조우게안녕요계무연용개생위명방중소재문금선영오결유반물니호회교년월습러모역비치트스",
}
_CONTROLS = re.compile(rb"[\x01-\x08\x0e-\x19\x1c-\x1f]")  # that no text of eight bits a character has
_KANA = re.compile(r"[\u3041-\u3096\u30a1-\u30fc]")
_WORD = re.compile(r"[^\W\d_]+")
_AMID = re.compile(r"(?<=[^\W\d_\x00-\x7f])[±¶·¤¦¨©¬®²³¼½¾×÷](?=[^\W\d_\x00-\x7f])")  # signs amid a word


def decode(content: bytes, declared: str | None = None) -> tuple[str, str]:
    """Return the text and a note in words where its encoding was guessed. Raises a 415."""
    for mark, name in _BOMS:
        if content.startswith(mark):
            return content.decode(name, "replace"), ""
    if declared:
        try:
            return content.decode(declared), ""
        except (LookupError, UnicodeDecodeError):
            pass  # a charset that doesn't fit is no better than none
    if b"\0" in content[:_SAMPLE]:
        if wide := _without_mark(content):
            return content.decode(wide, "replace"), ""
        raise unsupported("This is no text: it has zero bytes. Give a PDF, an Office file, a picture, HTML or text.")
    try:
        return content.decode("utf-8"), ""
    except UnicodeDecodeError:
        if wide := _without_mark(content):  # Chinese without a space or a line's end has no zero
            return content.decode(wide, "replace"), f"read as {wide}, which was guessed"
        name, sure = guess(content)
    if sure < _LEAST or len(_CONTROLS.findall(content[:_SAMPLE])) > 0.02 * len(content[:_SAMPLE]):
        raise unsupported("The text's encoding can't be told. Save the file as UTF-8 and give it again.")
    return content.decode(name, "replace"), f"read as {name}, which was guessed ({sure:.0%} sure)"


def _without_mark(content: bytes) -> str | None:
    """Return UTF-16's name where the bytes are text in one of its two orders: letters of alphabets, common signs.

    Other bytes read so are signs of anywhere, few of which any language uses much.
    """
    sample = content[:4096]
    if len(sample) < 4 or len(content) % 2:
        return None
    common = set().union(*_COMMON.values())
    for name in ("utf-16-le", "utf-16-be"):
        try:
            text = codecs.getincrementaldecoder(name)().decode(sample)  # not final: it may end amid a pair
        except UnicodeDecodeError:
            continue
        # Below U+1000 are the alphabets; the East's punctuation and kana are from U+3000 to U+30FF.
        usual = sum(
            (ord(c) < 0x1000 and (c.isspace() or unicodedata.category(c)[0] in "LNPS"))
            or 0x3000 <= ord(c) < 0x3100
            or c in common
            or c in "，。：；！？（）"
            for c in text
        )
        if usual > max(3, 0.5 * len(text)) and all(_is_text(c) for c in text):
            return name
    return None


def _is_text(character: str) -> bool:
    return character.isspace() or unicodedata.category(character) not in ("Cc", "Cn", "Co", "Cs")


def guess(content: bytes) -> tuple[str, float]:
    """Return the likeliest encoding of bytes that aren't UTF-8, and its likelihood from 0 to 1."""
    sample = content[:_SAMPLE]
    high = sum(b > 127 for b in sample)
    ranked = sorted(((_likelihood(sample, name), -i, name) for i, name in enumerate(_EASTERN + _WESTERN)), reverse=True)
    best, _, name = ranked[0]
    if high > _ENOUGH:
        import charset_normalizer

        found = charset_normalizer.from_bytes(sample).best()
        if found is not None and found.coherence > 0.3 and _likelihood(sample, found.encoding) > best - 0.3:
            return found.encoding, max(found.coherence, 0.5)
    if name in _WESTERN:
        east, _, eastern = next(row for row in ranked if row[2] in _EASTERN)
        if east >= _EAST and _is_all_common(sample, eastern) and not _has_small_letters(sample, name):
            return eastern, east
    return name, best


def _is_all_common(sample: bytes, name: str) -> bool:
    """Tell whether everything beyond ASCII is at least four signs of the encoding's first level, or its punctuation.

    Words of a Western code page come out so by chance in one of thousands: half of their letters would be lead bytes
    of rare signs, and a word of an odd length would take an ASCII letter along.
    """
    plain = {"gb18030": "gb2312", "cp949": "euc_kr", "euc_jp": "euc_jp"}.get(name)
    if plain is None:
        return False
    beyond = [c for c in sample.decode(name, "ignore") if ord(c) > 127]
    leads = [_lead(c, plain) for c in beyond]
    signs = sum(0xB0 <= lead <= 0xD7 for lead in leads)
    return signs >= 4 and all(0xA1 <= lead <= 0xA3 or 0xB0 <= lead <= 0xD7 for lead in leads)


def _has_small_letters(sample: bytes, name: str) -> bool:
    """Tell whether most letters beyond ASCII are small ones, as in any text of a Western code page but a headline.

    KOI8-R's small letters have the bytes of others' capitals, so there it tells nothing.
    """
    letters = [c for c in sample.decode(name, "ignore") if ord(c) > 127 and c.isalpha()]
    return name != "koi8_r" and sum(c.islower() for c in letters) > 0.6 * len(letters)


def _likelihood(sample: bytes, name: str) -> float:
    """Return how much the characters beyond ASCII look like text when decoded as ``name``."""
    try:
        decoder = codecs.getincrementaldecoder(name)()
        text = decoder.decode(sample)  # not final: the sample may end amid a character
    except (UnicodeDecodeError, LookupError):
        return 0.0
    beyond = [c for c in text if ord(c) > 127]
    if not beyond:
        return 0.0
    judge = _eastern if name in _EASTERN else _western
    return judge(text, beyond, name) if not any(unicodedata.category(c) in ("Cc", "Co", "Cn") for c in beyond) else 0.0


def _eastern(_: str, beyond: list[str], name: str) -> float:
    common = _COMMON.get(name, "")
    # Japanese without kana is a name or a heading; Chinese in GB18030, which has the same bytes, is likelier.
    kanji = 0.65 if name == "cp932" or any(map(_KANA.match, beyond)) else 0.55
    score = 0.0
    for c in beyond:
        if c in common:
            score += 1.0
        elif name in ("cp932", "euc_jp"):
            level_one = 0xB0 <= _lead(c, "euc_jp") <= 0xCF
            score += 1.0 if _KANA.match(c) else kanji if level_one else 0.5 if c in "、。「」・ー" else 0.0
        elif name == "cp949":
            score += 0.45 if 0xB0 <= _lead(c, "euc_kr") <= 0xC8 else 0.0
        elif name == "gb18030":
            lead = _lead(c, "gb2312")
            score += (
                0.6 if 0xB0 <= lead <= 0xD7 else 0.2 if lead > 0xD7 else 0.4 if c in "，。、：；“”！？（）《》" else 0.0
            )
        else:
            lead = _lead(c, "big5")
            score += 0.55 if 0xA4 <= lead <= 0xC6 else 0.15 if lead > 0xC6 else 0.4 if lead >= 0xA1 else 0.0
    return score / len(beyond)


def _lead(character: str, encoding: str) -> int:
    try:
        return character.encode(encoding)[0]
    except UnicodeEncodeError:
        return 0


def _western(text: str, beyond: list[str], name: str) -> float:
    """Return a likelihood by the words: letters of one alphabet, small after capital, no odd signs amid them."""
    score = sum(map(_usual, beyond)) / len(beyond)
    words = [w for w in _WORD.findall(text) if any(ord(c) > 127 for c in w)]
    if words:
        score -= 0.7 * sum(map(_odd, words)) / len(words)
        score -= 0.2 * sum(len(w) == 1 for w in words) / len(words)
        score -= len(_AMID.findall(text)) / len(beyond)
    if name in ("cp437", "mac_roman"):
        score -= 0.12  # old and rare: another that fits as well is likelier
    if name in ("cp1250", "cp1254"):
        score -= 0.02
    own = {"cp1255": "HEBREW", "cp1256": "ARABIC", "cp1253": "GREEK", "koi8_r": "CYRILLIC", "cp1251": "CYRILLIC"}
    letters = [c for c in beyond if c.isalpha()]
    if name in own and letters:
        fits = sum(own[name] in unicodedata.name(c, "") for c in letters) >= 0.8 * len(letters)
        score += 0.05 if fits and max(map(len, words), default=0) > 2 else 0.0 if fits else -0.4
    return max(0.0, min(score, 1.0))


def _usual(character: str) -> float:
    """Return how usual a character beyond ASCII is in text of a Western code page."""
    if character in "“”‘’„–—…€«»§°\u00a0":
        return 0.95
    if not character.isalpha():
        return 0.2
    if "CYRILLIC" in unicodedata.name(character, ""):
        return 1.0 if "а" <= character.lower() <= "я" or character in "ёЁ" else 0.75 if character in "іїєґІЇЄҐ" else 0.3
    return 0.6 if character in "ÝÞÐýþð¡¿ªºµƒ" else 1.0


def _odd(word: str) -> bool:
    """Tell whether a word mixes alphabets or cases, or is made of accented letters as no language's words are."""
    scripts = {unicodedata.name(c, "?").split()[0] for c in word if unicodedata.category(c) != "Lm"}
    mixed_case = any(a.islower() and b.isupper() for a, b in itertools.pairwise(word))
    accents = sum(ord(c) > 127 for c in word) if "LATIN" in scripts else 0
    return len(scripts) > 1 or mixed_case or (len(word) > 3 and accents > 0.6 * len(word))


def read(content: bytes, limits: Limits) -> Reading:
    """Return a text file as one page, a block for each paragraph. Raises a 415."""
    text, note = decode(content)
    notes = [note] if note else []
    if len(text) > limits.characters:
        notes.append(f"only the first {limits.characters:,} of {len(text):,} characters were read")
        text = text[: limits.characters]
    made = PageBuilder(limits)
    for paragraph in re.split(r"\n\s*\n", text.replace("\r\n", "\n").replace("\r", "\n")):
        made.text(paragraph)
    return Reading(1, (made.page(1),), notes=notes)


_FENCE = re.compile(r"^\s*(```|~~~)")
_HASHES = re.compile(r"^(#{1,6})\s+(.*?)\s*#*$")
_IMAGE = re.compile(r"!\[([^\]]*)\]\([^)]*\)")
_CELLS = re.compile(r"(?<!\\)\|")


def read_markdown(content: bytes, limits: Limits) -> Reading:
    """Return a Markdown file as one page: headings, tables and text as written. Raises a 415."""
    text, note = decode(content)
    made = PageBuilder(limits)
    kept: list[str] = []
    rows: list[list[str]] = []
    fenced = False

    def flush() -> None:
        if rows:
            made.table(rows)
        made.text("\n".join(kept))
        kept.clear()
        rows.clear()

    text = re.sub(r"\A---\n(.*?)\n---\n", lambda m: m[1] + "\n\n", text.replace("\r\n", "\n"), flags=re.DOTALL)
    for line in text[: limits.characters].split("\n"):
        fenced ^= bool(_FENCE.match(line))
        heading = None if fenced else _HASHES.match(line)
        if heading:
            flush()
            made.heading(heading[2], len(heading[1]))
        elif not fenced and kept and re.fullmatch(r"(=+|-{3,})\s*", line) and kept[-1].strip():
            title = kept.pop()
            flush()
            made.heading(title, 1 if line[0] == "=" else 2)
        elif not fenced and line.strip().startswith("|"):
            if not rows:
                flush()
            cells = [c.strip().replace("\\|", "|") for c in _CELLS.split(line.strip().strip("|"))]
            if not all(re.fullmatch(r":?-+:?", c) for c in cells):
                rows.append(cells)
        elif not line.strip() and not fenced:
            flush()
        else:
            if rows:
                flush()
            kept.append(_IMAGE.sub(lambda m: m[1], line))
    flush()
    return Reading(1, (made.page(1),), notes=[note] if note else [])
