"""The matrix's columns: what a family is put through, each request compared with mlx-vlm's own answer to it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from sidecar.backend.positions import lengthened
from sidecar.engine.messages import Tier
from sidecar.engine.rows import Prompt
from tests.support.families.engine import Engine, Run
from tests.support.families.reference import Answer, Reference, picture
from tests.support.families.spec import Family

CLOSE = 5e-3
"""How far a token's log-probability may be from mlx-vlm's."""

TIE = 2e-3
"""Two scores closer than this may change places."""

TEXTS = ("what is in this image?", "Name three colours.", "Count to ten, then explain why rain falls.")
LONG = " ".join(f"line {i}: the quick brown fox jumps over dog {i * 7}." for i in range(11))  # some 470 tokens


@dataclass(frozen=True)
class Ask:
    """A prompt and mlx-vlm's answer to it."""

    label: str
    prompt: Prompt
    answer: Answer


class Bench:
    """A family on the bench: the engine, mlx-vlm beside it, and the prompts that columns are made of."""

    def __init__(self, family: Family, engine: Engine, reference: Reference) -> None:
        self.family, self.engine, self.reference = family, engine, reference
        self.blind = False  # mlx-vlm itself can't make its pictures' inputs
        self.rounds = 3  # of the random column
        self._asks: dict[tuple[Any, ...], Ask] = {}

    @property
    def sees(self) -> bool:
        """Whether the family's pictures are to be judged."""
        return self.family.sees and not self.blind

    def text(self, number: int = 0) -> Ask:
        """Return one of the short texts."""
        return self.ask(f"text{number}", TEXTS[number])

    def long(self) -> Ask:
        """Return a text longer than any window."""
        return self.ask("long", LONG)

    def image(self, first: int = 0, count: int = 1, text: str = TEXTS[0]) -> Ask:
        """Return a prompt with ``count`` pictures from number ``first`` on."""
        letters = "".join("ABCDEFG"[first + i] for i in range(count))
        return self.ask(f"img{letters}" if text == TEXTS[0] else f"long img{letters}", text, first, count)

    def ask(self, label: str, text: str, first: int = 0, count: int = 0) -> Ask:
        """Return a prompt of one message. Raises AssertionError where the two processors disagree about its tokens."""
        key = (text, first, count)
        if key not in self._asks:
            images = [picture(first + i, self.family.side) for i in range(count)]
            messages = [{"role": "user", "content": text}]
            inputs = self.reference.inputs(messages, images)
            prompt = self.engine.prompt(messages, images)
            assert list(prompt.tokens) == inputs["input_ids"].flatten().tolist(), f"{label}: other prompt tokens"
            self._asks[key] = Ask(label, prompt, self.reference.generate(inputs))
        return self._asks[key]

    def after(self, ask: Ask, more: Sequence[int], label: str) -> Ask:
        """Return a next turn: the prompt of ``ask`` and ``more`` tokens after it, its pictures with it."""
        import mlx.core as mx

        tokens = (*ask.prompt.tokens, *more)
        inputs = lengthened(ask.prompt.inputs, len(tokens)) if ask.prompt.inputs is not None else {}
        inputs["input_ids"] = mx.array([tokens])
        if inputs.get("attention_mask") is None:
            inputs["attention_mask"] = mx.ones((1, len(tokens)), dtype=mx.int32)
        prompt = replace(ask.prompt, tokens=tokens, inputs=inputs if ask.prompt.inputs is not None else None)
        return Ask(label, prompt, self.reference.generate(inputs))

    def words(self, text: str) -> list[int]:
        """Return the tokens of a piece of text."""
        return list(self.engine.loaded.tokenizer(text, add_special_tokens=False)["input_ids"])

    def submit(self, ask: Ask, **options: Any) -> tuple[Ask, Run]:
        """Queue a prompt."""
        return ask, self.engine.submit(ask.label, ask.prompt, **{"tokens": 8, **options})

    def alone(self, ask: Ask) -> tuple[Ask, Run]:
        """Ask a prompt by itself."""
        pair = self.submit(ask)
        self.engine.finish()
        return pair


Pairs = Iterable[tuple[Ask, Run]]


def differences(pairs: Pairs, tokens: int = 8) -> list[str]:
    """Return what is wrong, a line a request; [] where all are mlx-vlm's own answers."""
    return [f"{run.label}: {text}" for ask, run in pairs if (text := _difference(ask.answer, run, tokens))]


def _difference(want: Answer, run: Run, tokens: int) -> str:
    if run.failure:
        return run.failure[:160]
    if not run.ended:
        return "no end"
    limit = min(tokens, run.request.max_tokens)
    for i, token in enumerate(want.tokens[:limit]):
        if i >= len(run.tokens):
            return "" if want.margins[i] <= TIE else f"ended @{i}, want {token}"
        apart = abs(run.logprobs[i] - want.logprobs[i])
        if run.tokens[i] != token:
            return "" if want.margins[i] <= TIE else f"@{i} {run.logprobs[i]:.3f} want {want.logprobs[i]:.3f}"
        if not apart <= CLOSE:
            return f"@{i} {run.logprobs[i]:.3f} want {want.logprobs[i]:.3f}"
    if len(run.tokens) > len(want.tokens[:limit]):
        margin = want.margins[len(want.tokens)] if len(want.margins) > len(want.tokens) else 1.0
        return "" if margin <= TIE else "goes on where mlx-vlm ends"
    return ""


Column = Callable[[Bench], list[str]]
COLUMNS: dict[str, Column] = {}
"""What a family is put through, by the column's name; each returns what is wrong."""
PICTURES: set[str] = set()
"""Columns for families that see."""


def column(name: str, *, pictures: bool = False) -> Callable[[Column], Column]:
    """Enter a column into the table."""

    def enter(run: Column) -> Column:
        COLUMNS[name] = run
        if pictures:
            PICTURES.add(name)
        return run

    return enter


@column("text")
def text(b: Bench) -> list[str]:
    return differences([b.alone(b.text(0)), b.alone(b.text(1))])


@column("image", pictures=True)
def image(b: Bench) -> list[str]:
    return differences([b.alone(b.image(0)), b.alone(b.image(1))])


@column("two pictures", pictures=True)
def two_pictures(b: Bench) -> list[str]:
    if b.family.pictures < 2:
        return []
    return differences([b.alone(b.image(0, 2)), b.alone(b.image(1, 2))])


@column("pieces")
def pieces(b: Bench) -> list[str]:
    wrong = []
    asks = [b.text(2)]
    if b.sees:
        asks += [b.image(0), b.image(0, min(2, b.family.pictures))]
    for size in (8, 64, 256):
        b.engine.set(piece=size)
        for ask in asks:
            b.engine.forget()
            wrong += [f"pieces of {size}: {w}" for w in differences([b.alone(ask)])]
    return wrong


@column("long")
def long(b: Bench) -> list[str]:
    wrong = []
    for size in (4096, 64, 100):
        b.engine.set(piece=size)
        b.engine.forget()
        wrong += [f"pieces of {size}: {w}" for w in differences([b.alone(b.long())])]
    b.engine.forget()
    b.engine.set(piece=64, decode_first=True)
    chat = b.submit(b.text(1), tokens=8)
    b.engine.until(lambda: len(chat[1].tokens) > 0)
    wrong += [f"beside a chat: {w}" for w in differences([chat, b.alone(b.long())])]
    if b.sees:  # the picture lies far before the window's end
        b.engine.forget()
        b.engine.set(piece=64)
        wrong += differences([b.alone(b.image(2, 1, LONG[:200]))])
    return wrong


@column("groups")
def groups(b: Bench) -> list[str]:
    wrong = []
    for size in (4096, 8):
        b.engine.set(piece=size, group=True)
        b.engine.forget()
        pairs = [b.submit(b.text(n)) for n in range(3)]
        b.engine.finish()
        wrong += differences(pairs)
    return wrong


@column("at once")
def at_once(b: Bench) -> list[str]:
    """Two texts and two pictures together, each against itself alone."""
    asks = [b.text(0), b.text(1)]
    asks += [b.image(0), b.image(1)] if b.sees else [b.text(2), b.long()]
    pairs = [b.submit(ask) for ask in asks]
    b.engine.finish()
    return differences(pairs)


@column("joined")
def joined(b: Bench) -> list[str]:
    """Rows that join and leave one by one, at every step another."""
    asks = [b.text(0), b.image(0) if b.sees else b.long(), b.text(1), b.image(1) if b.sees else b.text(2), b.text(2)]
    pairs: list[tuple[Ask, Run]] = []
    for n, ask in enumerate(asks):
        pairs.append(b.submit(ask, tokens=(8, 3, 6, 5, 8)[n]))
        first, begun = pairs[0][1], len(pairs[0][1].tokens) + 2
        b.engine.until(partial(_reached, first, begun))
    b.engine.finish()
    return differences(pairs)


def _reached(run: Run, tokens: int) -> bool:
    return run.ended or len(run.tokens) >= tokens


@column("interleaved")
def interleaved(b: Bench) -> list[str]:
    """Another request begins in the middle of one."""
    wrong = []
    middle = b.image(1) if b.sees else b.text(0)
    firsts = [b.long(), b.text(1), *([b.image(0), b.image(0, min(2, b.family.pictures))] if b.sees else [])]
    for ask in firsts:  # in the middle of its prompt
        b.engine.set(piece=16)
        b.engine.forget()
        pairs = [b.submit(ask)]
        b.engine.turn()
        b.engine.turn()
        b.engine.set(piece=4096)
        other = b.submit(middle)
        pairs.append(other)
        b.engine.other_first(pairs[0][1], other[1])
        wrong += [f"in the middle of {ask.label}: {w}" for w in differences(pairs)]
    b.engine.set()
    b.engine.forget()
    pairs = [b.submit(b.text(1))]  # while its row is decoded
    b.engine.until(lambda: len(pairs[0][1].tokens) >= 3)
    pairs.append(b.submit(middle, tokens=1))
    b.engine.finish()
    wrong += [f"beside a row: {w}" for w in differences(pairs)]
    return wrong


@column("turn 2 cold")
def turn_2_cold(b: Bench) -> list[str]:
    more = b.words(" and then? tell me more about that.")
    wrong = []
    for ask in [b.text(2), *([b.image(0)] if b.sees else [])]:
        b.engine.forget()
        wrong += differences([b.alone(b.after(ask, more, f"{ask.label} turn 2"))])
    return wrong


@column("turn 2 kept")
def turn_2_kept(b: Bench) -> list[str]:
    more = b.words(" and then? tell me more about that.")
    wrong = []
    asks = [b.text(2), *([b.image(0), b.image(0, min(2, b.family.pictures))] if b.sees else [])]
    seconds = [b.after(ask, more, f"{ask.label} turn 2") for ask in asks]
    for ask, second in zip(asks, seconds, strict=True):  # one after another
        wrong += differences([b.alone(ask), b.alone(second)])
    pairs = [b.submit(second) for second in seconds]  # and all at once, from what is kept
    b.engine.finish()
    return wrong + [f"at once: {w}" for w in differences(pairs)]


@column("own answer kept")
def own_answer_kept(b: Bench) -> list[str]:
    """Turn 2 after the model's own answer: what recurrent and windowed caches need."""
    wrong = []
    for ask in [b.text(2), b.long(), *([b.image(0)] if b.sees else [])]:
        first = b.alone(ask)
        wrong += differences([first])
        more = [*first[1].tokens, *b.words("\nand why is that so?")]
        second = b.alone(b.after(ask, more, f"{ask.label} turn 2"))
        wrong += [f"{w} (reused {second[1].cached} of {len(second[0].prompt.tokens)})" for w in differences([second])]
    return wrong


@column("resumed")
def resumed(b: Bench) -> list[str]:
    """An answer that goes on after three tokens, as after a batch that broke."""
    wrong = []
    for ask in [b.text(1), *([b.image(0)] if b.sees else [])]:
        if len(ask.answer.tokens) < 5:
            continue
        b.engine.forget()
        pair = b.submit(ask)
        pair[1].request.resumed = ask.answer.tokens[:3]
        b.engine.finish()
        rest = replace(
            ask.answer,
            tokens=ask.answer.tokens[3:],
            logprobs=ask.answer.logprobs[3:],
            margins=ask.answer.margins[3:],
        )
        wrong += differences([(Ask(f"{ask.label} resumed", ask.prompt, rest), pair[1])], len(rest.tokens))
    return wrong


@column("never mixed", pictures=True)
def never_mixed(b: Bench) -> list[str]:
    """The same text with pictures A B A C B; and a second turn of each."""
    more = b.words(" and then?")
    pairs = []
    for number in (0, 1, 0, 2, 1):
        pairs.append(b.alone(b.image(number)))
    pairs += [b.alone(b.after(b.image(number), more, f"img{'ABC'[number]} turn 2")) for number in (2, 0, 1)]
    return differences(pairs)


@column("batch tier")
def batch_tier(b: Bench) -> list[str]:
    """Batch rows beside interactive ones, in their pass and by themselves."""
    b.engine.set(draw=random.Random(7))
    asks = [b.text(0), b.text(1), b.image(1) if b.sees else b.text(2)]
    pairs = [b.submit(ask, tier=Tier.BATCH) for ask in asks]
    b.engine.until(lambda: any(run.tokens for _, run in pairs))
    pairs += [b.submit(b.image(0) if b.sees else b.long()), b.submit(b.text(2))]
    b.engine.finish()
    return differences(pairs)


@column("company")
def company(b: Bench) -> list[str]:
    """Rows that ask for more join and leave: scores of the likeliest tokens, penalties, a bias."""
    plain = b.submit(b.text(1))
    b.engine.until(lambda: len(plain[1].tokens) >= 2)
    b.submit(b.text(0), tokens=2, top_logprobs=5)
    b.engine.until(lambda: len(plain[1].tokens) >= 3)
    b.submit(b.text(2), tokens=3, repetition_penalty=1.3)
    b.submit(b.text(0), tokens=4, logit_bias=((300, 5.0),), temperature=0.8, seed=3)
    b.engine.finish()
    return differences([plain])


@column("cancel")
def cancel(b: Bench) -> list[str]:
    """Requests that go away in their prompt and while they are decoded."""
    b.engine.set(piece=32)
    stays = b.submit(b.text(1))
    gone = [b.submit(b.text(0)), b.submit(b.image(0) if b.sees else b.long()), b.submit(b.long())]
    b.engine.turn()
    b.engine.cancel(gone[2][1])
    b.engine.until(lambda: len(stays[1].tokens) >= 2)
    late = b.submit(b.text(2))
    b.engine.cancel(gone[0][1])
    b.engine.cancel(gone[1][1])
    b.engine.finish()
    return differences([stays, late])


@column("eight")
def eight(b: Bench) -> list[str]:
    """Beside seven others."""
    asks = [b.text(0), b.text(1), b.text(2), b.long()]
    asks += [b.image(0), b.image(1), b.image(2), b.image(0, min(2, b.family.pictures))] if b.sees else asks
    b.engine.set(piece=64, group=True)
    pairs = [b.submit(ask) for ask in asks]
    b.engine.finish()
    return differences(pairs)


@column("at random")
def at_random(b: Bench) -> list[str]:
    """Requests come, pause, join and go at random; twelve a round."""
    wrong = []
    for seed in range(b.rounds):
        draw = random.Random(f"{b.family.name}{seed}")
        b.engine.set(draw=draw)
        b.engine.forget()
        asks = [b.text(0), b.text(1), b.text(2), b.long()]
        asks += [b.image(0), b.image(1), b.image(0, min(2, b.family.pictures))] if b.sees else []
        pairs: list[tuple[Ask, Run]] = []
        for _ in range(12):
            pairs.append(b.submit(draw.choice(asks), tokens=draw.randint(1, 8), tier=draw.choice(list(Tier))))
            for _ in range(draw.randint(0, 6)):
                b.engine.turn()
            if draw.random() < 0.2:
                b.engine.cancel(pairs.pop(draw.randrange(len(pairs)))[1])
        b.engine.finish()
        wrong += [f"round {seed}: {w}" for w in differences(pairs)]
    return wrong
