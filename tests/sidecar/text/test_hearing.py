"""Sounds of a request: read in the child, resampled as mlx-vlm does it, and heard as mlx-vlm's own generation hears."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from mlx_audio.resample import resample_audio_array  # type: ignore[import-untyped]
from mlx_vlm.utils import read_audio

from sidecar.engine.admission import Media
from sidecar.engine.asked import SoundData
from sidecar.engine.rows import Prompt
from sidecar.errors import ApiError
from sidecar.text.files.pages import ReadError, Wanted
from sidecar.text.files.reader import read
from sidecar.text.prompt import build_prompt
from sidecar.text.sounds import heard, resampled
from tests.support.families import hearing
from tests.support.families.engine import Engine
from tests.support.families.hearing import RATE, tone
from tests.support.families.reference import Answer, Reference
from tests.support.families.scenes import Ask, Bench, differences
from tests.support.families.spec import FAMILIES
from tests.support.servers import Sidecar, sidecar

QUESTION = "What do you hear?"
pytestmark = pytest.mark.filterwarnings("ignore:At least one mel filter")


def samples_of(data: bytes) -> tuple[np.ndarray[Any, Any], int]:
    found = read("a", "", data, Wanted(sound=True))  # as in the child, without one
    return np.frombuffer(found.samples, np.float32), found.rate


@pytest.mark.parametrize(("rate", "channels"), [(16000, 1), (44100, 2), (8000, 1)])
def test_wav_is_read_as_mlx_vlm_reads_it(rate: int, channels: int, tmp_path: Path) -> None:
    data = tone(440, 0.3, rate=rate, channels=channels)
    (tmp_path / "a.wav").write_bytes(data)
    want, want_rate = read_audio(str(tmp_path / "a.wav"))
    got, got_rate = samples_of(data)
    assert got_rate == want_rate == rate
    assert np.array_equal(got, want.mean(axis=1))


@pytest.mark.parametrize("rates", [(44100, 16000), (8000, 16000), (48000, 16000), (22050, 16000), (16000, 24000)])
def test_resampling_is_mlx_audios(rates: tuple[int, int]) -> None:
    given = np.random.default_rng(3).standard_normal(7001).astype(np.float32)
    want = resample_audio_array(given, *rates)
    got = resampled(given, *rates)
    assert got.shape == want.shape
    assert np.abs(got - want).max() < 1e-5
    assert np.array_equal(resampled(given, 16000, 16000), given)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"no sound", "no sound that can be read"),
        (b"", "is empty"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", "damaged"),
        (tone(440, 0.0), "holds no sound"),
        (b"fLaC" + bytes(40), "can't be decoded"),
        (b"OggS" + bytes(40), "can't be decoded"),
        (b"ID3" + bytes(40), "can't be decoded"),
    ],
    ids=["text", "empty", "cut", "silent", "flac", "ogg", "mp3"],
)
def test_what_is_no_sound_says_so(data: bytes, said: str) -> None:
    with pytest.raises(ReadError, match=said):
        read("a", "", data, Wanted(sound=True))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hearing.gemma4(tmp_path_factory.mktemp("hearing") / "gemma4-hears")


@pytest.fixture(scope="module")
def engine(model: Path) -> Engine:
    return Engine(model)


@pytest.fixture(scope="module")
def reference(model: Path) -> Reference:
    return Reference(model, FAMILIES["gemma4"])


def prompt_of(engine: Engine, *turns: tuple[str, tuple[bytes, ...]]) -> Prompt:
    """Return a conversation's prompt: of each turn the question and its sounds; answers of a word stand between."""
    messages: list[dict[str, Any]] = []
    sounds = []
    for question, files in turns:
        if messages:
            messages.append({"role": "assistant", "content": "Yes."})
        parts: list[dict[str, Any]] = [{"type": "text", "text": question}, *[{"type": "audio"} for _ in files]]
        messages.append({"role": "user", "content": parts})
        for data in files:
            samples, rate = samples_of(data)
            given = SoundData(param="x", samples=samples.tobytes(), rate=rate)
            sounds.append(heard(engine.loaded, given))
    return build_prompt(engine.loaded, messages, (), sounds=sounds)


def asked(engine: Engine, reference: Reference, files: dict[Path, bytes], text: str = QUESTION) -> Ask:
    for path, data in files.items():
        path.write_bytes(data)
    inputs = hearing.reference_inputs(reference, text, list(files))
    prompt = prompt_of(engine, (text, tuple(files.values())))
    assert list(prompt.tokens) == inputs["input_ids"].flatten().tolist()
    return Ask(" ".join(p.name for p in files), prompt, reference.generate(inputs))


def test_answers_to_sounds_are_mlx_vlms_own(engine: Engine, reference: Reference, tmp_path: Path) -> None:
    """Alone, in pieces, beside another, resampled, two at once; and every one of them is heard."""
    assert not engine.loaded.can.hear
    low = asked(engine, reference, {tmp_path / "low.wav": tone(200)})
    high = asked(engine, reference, {tmp_path / "high.wav": tone(3000)})
    fast = asked(engine, reference, {tmp_path / "fast.wav": tone(700, 0.8, rate=44100, channels=2)})
    both = asked(engine, reference, {tmp_path / "l.wav": tone(200, 0.5), tmp_path / "h.wav": tone(3000, 0.9)})
    assert low.answer.logprobs != high.answer.logprobs, "the sound changes nothing, so that nothing is shown"
    for piece in (4096, 8):
        for ask in (low, high, fast, both, low):
            engine.set(piece=piece)
            engine.forget()
            run = engine.submit(ask.label, ask.prompt)
            engine.finish()
            assert differences([(ask, run)]) == []
    engine.set(piece=8, decode_first=True)
    together = [(ask, engine.submit(ask.label, ask.prompt)) for ask in (low, high, both)]
    engine.finish()
    assert differences(together) == []


def test_what_a_sound_takes_is_in_the_ledger(engine: Engine) -> None:
    """Nobody counted it: a minute of sound beside chats that had the last of the memory was one too many."""
    prompt = prompt_of(engine, (QUESTION, (tone(440, 2.0),)))
    assert prompt.numbers.sounds >= 2 * 100 * 80, "a hundred frames a second"
    assert prompt.numbers.pictures == 0
    assert prompt_of(engine, (QUESTION, ())).numbers == Media()
    engine.set()
    engine.forget()
    engine.submit("sound", prompt)
    engine.finish()
    ledger = engine.runner.room.ledger
    took = ledger.work(prompt.numbers, [])
    assert took >= 4 * prompt.numbers.sounds, "at least its spectrum as floats"
    assert ledger.need(100, [], prompt.numbers) == ledger.need(100, []) + took


def test_kept_prefixes_never_mix_sounds(engine: Engine, reference: Reference, tmp_path: Path) -> None:
    low = asked(engine, reference, {tmp_path / "low.wav": tone(200)})
    high = asked(engine, reference, {tmp_path / "high.wav": tone(3000)})
    bench = Bench(FAMILIES["gemma4"], engine, reference)
    engine.set()
    engine.forget()
    _, first = bench.alone(low)
    more = [*first.tokens, *bench.words("And then?")]
    for ask, kept in ((bench.after(high, more, "other sound"), False), (bench.after(low, more, "next turn"), True)):
        pair = bench.alone(ask)
        assert differences([pair]) == []
        assert (pair[1].cached > len(low.prompt.tokens) - 4) is kept
        assert kept or not pair[1].cached


def test_a_sound_stays_in_its_own_turn(engine: Engine) -> None:
    """mlx-vlm itself puts it into the last question, and a kept prefix would never fit."""
    first = prompt_of(engine, (QUESTION, (tone(200),)))
    later = prompt_of(engine, (QUESTION, (tone(200),)), ("And now?", ()))
    token = engine.loaded.model.config.audio_token_id
    places = [i for i, t in enumerate(first.tokens) if t == token]
    assert places
    assert [i for i, t in enumerate(later.tokens) if t == token] == places


def test_a_sound_longer_than_the_model_hears_is_refused_and_not_cut(engine: Engine) -> None:
    samples = np.zeros(31 * RATE, np.float32)
    given = SoundData(param="messages.0.content.0.input_audio", samples=samples.tobytes(), rate=RATE)
    with pytest.raises(ApiError, match=r"31\.0 s long and this model hears 30 s"):
        heard(engine.loaded, given)


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory, model: Path, data_dir: Path) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("hearing-server")
    running: Sidecar
    with sidecar(folder, "--model-dir", str(model.parent), data_dir=data_dir) as running, running.client() as client:
        yield client


def part(data: bytes) -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode(), "format": "wav"}}


def test_chat_and_responses_hear_what_mlx_vlm_hears(http: httpx.Client, reference: Reference, tmp_path: Path) -> None:
    data = tone(900, 0.7)
    (tmp_path / "a.wav").write_bytes(data)
    inputs = hearing.reference_inputs(reference, QUESTION, [tmp_path / "a.wav"])
    want: Answer = reference.generate(inputs)
    content = [{"type": "text", "text": QUESTION}, part(data)]
    body: dict[str, Any] = {"model": "gemma4-hears", "temperature": 0, "max_tokens": 8, "logprobs": True}
    got = http.post("/v1/chat/completions", json=body | {"messages": [{"role": "user", "content": content}]}).json()
    entries = got["choices"][0]["logprobs"]["content"]
    assert got["usage"]["prompt_tokens"] == want.prompt
    assert [e["logprob"] for e in entries] == pytest.approx(want.logprobs, abs=5e-3)
    url = {"type": "audio_url", "audio_url": {"url": "data:audio/wav;base64," + base64.b64encode(data).decode()}}
    other = http.post(
        "/v1/chat/completions", json=body | {"messages": [{"role": "user", "content": [content[0], url]}]}
    )
    assert other.json()["choices"][0]["message"] == got["choices"][0]["message"]
    item = {"role": "user", "content": [{"type": "input_text", "text": QUESTION}, part(data)]}
    asked = {"model": "gemma4-hears", "temperature": 0, "max_output_tokens": 8, "store": False, "input": [item]}
    response = http.post("/v1/responses", json=asked).json()
    assert response["usage"]["input_tokens"] == want.prompt
    assert response["output"][0]["content"][0]["text"] == got["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("starter", part(tone(440, 0.1)), "doesn't hear (it is a model without ears)"),
        ("gemma4-hears", part(b"nothing"), "no sound that can be read"),
        ("gemma4-hears", {"type": "input_audio", "input_audio": {"data": "!"}}, "not valid base64"),
        ("gemma4-hears", {"type": "input_audio"}, "input_audio"),
        ("gemma4-hears", {"type": "audio_url", "audio_url": {"url": "https://example.org/a.wav"}}, "URLs are off"),
    ],
    ids=["deaf", "damaged", "base64", "nothing", "address"],
)
def test_what_can_not_be_heard_is_refused_by_name(
    http: httpx.Client, name: str, given: dict[str, Any], said: str
) -> None:
    body = {"model": name, "messages": [{"role": "user", "content": [given]}]}
    answer = http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]
    assert answer.json()["error"]["param"].startswith("messages.0.content.0")
