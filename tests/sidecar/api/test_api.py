"""Errors, limits, models, embeddings, tokenization, health, metrics."""

from __future__ import annotations

import base64
import io
import json
import socket
import struct
import zlib
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from PIL import Image

from tests.support.servers import Sidecar, sidecar

HELLO: Any = [{"role": "user", "content": "Hello"}]


def error_of(answer: httpx.Response) -> dict[str, Any]:
    """The error of an OpenAI envelope, which it must be."""
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) >= {"message", "type", "param", "code"}
    assert isinstance(body["error"]["message"], str)
    error: dict[str, Any] = body["error"]
    return error


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"temperature": 3}, "temperature"),
        ({"temperature": "warm"}, "temperature"),
        ({"n": 100}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 50}, "top_logprobs"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 1000}}, "logit_bias"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "video", "text": "x"}]}]}, "messages.0.content.0"),
        ({"store": True}, "store"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"functions": []}, "functions"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "nonsense"}}}},
            "response_format",
        ),
    ],
)
def test_what_cannot_be_honoured_is_a_400_that_names_it(http: httpx.Client, change: Any, param: str) -> None:
    answer = http.post("/v1/chat/completions", json={"model": "starter", "messages": HELLO, **change})
    assert answer.status_code == 400, answer.text
    error = error_of(answer)
    assert (error["param"] or "").startswith(param)
    assert error["type"] == "invalid_request_error"


def test_bad_json_unknown_path_wrong_method(http: httpx.Client) -> None:
    bad = http.post("/v1/chat/completions", content=b"{", headers={"content-type": "application/json"})
    assert bad.status_code == 400
    assert "JSON" in error_of(bad)["message"]
    for path, status in (("/nowhere", 404), ("/v1/chat/completions", 405)):
        answer = http.get(path)
        assert answer.status_code == status
        assert error_of(answer)["type"] == "invalid_request_error"


def test_context_overflow_gives_both_numbers(http: httpx.Client) -> None:
    messages = [{"role": "user", "content": "word " * 9000}]
    answer = http.post("/v1/chat/completions", json={"model": "starter", "messages": messages})
    assert answer.status_code == 400
    error = error_of(answer)
    assert error["code"] == "context_length_exceeded"
    assert "8192" in error["message"]
    assert "90" in error["message"]


def test_sdk_maps_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="no-such-model", messages=HELLO)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="starter", messages=HELLO, temperature=9)
    assert bad.value.param == "temperature"
    with pytest.raises(openai.NotFoundError) as hub:
        client.chat.completions.create(model="mlx-community/Not-Here-4bit", messages=HELLO)
    assert "mlx-sidecar pull mlx-community/Not-Here-4bit" in str(hub.value)
    with pytest.raises(openai.NotFoundError) as alias:
        client.chat.completions.create(model="qwen3-vl-4b", messages=HELLO)
    assert "mlx-sidecar pull qwen3-vl-4b" in str(alias.value)


def test_models(client: openai.OpenAI) -> None:
    names = {m.id for m in client.models.list()}
    assert {"starter", "tiny-vl", "minilm"} <= names
    assert client.models.retrieve("starter").id == "starter"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("../../etc")


@pytest.mark.parametrize("damage", ["no_weights", "cut_off", "bad_json", "unknown_architecture", "garbage"])
def test_a_broken_model_is_one_clear_error_and_nothing_else_suffers(
    tmp_path: Path, model_dir: Path, http: httpx.Client, server: Sidecar, damage: str
) -> None:
    broken = model_dir / f"broken-{damage}"
    broken.mkdir()
    for file in (model_dir / "tiny-vl").iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    weights = broken / "model.safetensors"
    if damage == "no_weights":
        weights.unlink()
    elif damage == "cut_off":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif damage == "garbage":
        weights.write_bytes(b"\xff" * 4096)
    elif damage == "bad_json":
        (broken / "config.json").write_text("{")
    else:
        (broken / "config.json").write_text(json.dumps({"model_type": "not_a_model"}))
    try:
        answer = http.post("/v1/chat/completions", json={"model": broken.name, "messages": HELLO})
        assert answer.status_code == 422, answer.text
        assert error_of(answer)["code"] == "model_load_failed"
        assert broken.name in error_of(answer)["message"]
        good = http.post(
            "/v1/chat/completions", json={"model": "starter", "messages": HELLO, "max_tokens": 2, "temperature": 0}
        )
        assert good.status_code == 200
        assert http.get("/health").json()["status"] == "ready"
    finally:
        for file in broken.iterdir():
            file.unlink()
        broken.rmdir()


def test_embeddings(client: openai.OpenAI, http: httpx.Client) -> None:
    texts = ["A cat sits on the mat.", "A kitten is on the rug.", "Stock prices fell sharply."]
    vectors = [d.embedding for d in client.embeddings.create(model="minilm", input=texts).data]  # base64 on the wire
    plain = http.post("/v1/embeddings", json={"model": "minilm", "input": texts, "encoding_format": "float"}).json()
    for a, b in zip(vectors, plain["data"], strict=True):
        assert a == pytest.approx(b["embedding"], abs=1e-6)
    assert len(vectors[0]) == 384

    def dot(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True))

    assert dot(vectors[0], vectors[0]) == pytest.approx(1, abs=1e-3)
    assert dot(vectors[0], vectors[1]) > 0.5 > 0.2 > dot(vectors[0], vectors[2])
    raw = http.post("/v1/embeddings", json={"model": "minilm", "input": texts[0], "encoding_format": "base64"}).json()
    data = base64.b64decode(raw["data"][0]["embedding"])
    assert struct.unpack("<384f", data) == pytest.approx(vectors[0], abs=1e-5)
    assert raw["usage"]["prompt_tokens"] == 9


OPENAIS = [791, 4062, 14198, 927, 279, 16053, 5679, 13]
"""A sentence in the ids of OpenAI's own tokenizer, as LangChain sends it unless told otherwise."""


def test_embeddings_of_the_models_own_token_ids(http: httpx.Client, data_dir: Path) -> None:
    from tokenizers import Tokenizer

    from sidecar.models.starter import embedding

    tokenizer = Tokenizer.from_file(str(embedding.folder(data_dir) / "tokenizer.json"))
    tokenizer.no_padding()
    texts = ["Straßen in 東京, don't they 🙂?", "The quick brown fox jumps over the lazy dogs of antiquity."]
    tokens = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    cut = tokens[1][1:-1]
    answer = http.post("/v1/embeddings", json={"model": "minilm", "input": [*tokens, cut]})
    assert answer.status_code == 200, answer.text
    whole = http.post("/v1/embeddings", json={"model": "minilm", "input": texts}).json()["data"]
    assert answer.json()["data"][1]["embedding"] == pytest.approx(whole[1]["embedding"], abs=1e-4)
    for theirs in (OPENAIS, [*OPENAIS, 39_935]):
        refused = http.post("/v1/embeddings", json={"model": "minilm", "input": theirs})
        assert "check_embedding_ctx_length" in error_of(refused)["message"]


def test_embedding_errors(http: httpx.Client) -> None:
    for body, param in (
        ({"model": "minilm", "input": []}, "input"),
        ({"model": "minilm", "input": ""}, "input"),
        ({"model": "minilm", "input": "word " * 2000}, "input"),
        ({"model": "minilm", "input": "x", "dimensions": 9999}, "dimensions"),
        ({"model": "starter", "input": "x"}, "model"),
        ({"model": "minilm", "input": [OPENAIS]}, "input"),
        ({"model": "minilm", "input": [200_000]}, "input"),
    ):
        answer = http.post("/v1/embeddings", json=body)
        assert answer.status_code == 400, answer.text
        assert error_of(answer)["param"] == param
    chat = http.post("/v1/chat/completions", json={"model": "minilm", "messages": HELLO})
    assert chat.status_code == 400


def test_tokenize_counts_what_a_chat_uses(http: httpx.Client) -> None:
    count = http.post("/tokenize", json={"model": "starter", "messages": HELLO}).json()
    chat = http.post("/v1/chat/completions", json={"model": "starter", "messages": HELLO, "max_tokens": 1}).json()
    assert count["count"] == chat["usage"]["prompt_tokens"] == len(count["tokens"])
    assert count["max_model_len"] == 8192


def test_completions(client: openai.OpenAI) -> None:
    one = client.completions.create(
        model="starter", prompt="The capital of France is", temperature=0, max_tokens=4, echo=True
    )
    assert one.choices[0].text.startswith("The capital of France is Paris")
    two = client.completions.create(
        model="starter", prompt=["One, two,", "Red, green,"], temperature=0, max_tokens=4, n=2, logprobs=2
    )
    assert [c.index for c in two.choices] == [0, 1, 2, 3]
    assert two.choices[0].text == two.choices[1].text != two.choices[2].text
    logprobs = two.choices[0].logprobs
    assert logprobs is not None
    assert "".join(logprobs.tokens or []) == two.choices[0].text
    stream = client.completions.create(model="starter", prompt="One, two,", temperature=0, max_tokens=4, stream=True)
    assert "".join(c.choices[0].text for c in stream) == two.choices[0].text


def test_health_metrics_version_docs(http: httpx.Client, server: Sidecar) -> None:
    health = http.get("/health").json()
    assert health["instance_id"] == server.record["instance_id"]
    assert health["pid"] == server.record["pid"] == server.process.pid
    assert set(health) >= {"status", "version", "uptime_s", "model", "load_progress", "queue", "error"}
    assert http.get("/health/ready").status_code == 200
    assert http.get("/version").json()["version"] == health["version"]
    http.post("/v1/chat/completions", json={"model": "starter", "messages": HELLO, "max_tokens": 2})
    text = http.get("/metrics").text
    assert 'mlx_sidecar_generation_tokens_total{tier="interactive"}' in text
    assert "mlx_sidecar_time_to_first_token_seconds_bucket" in text
    assert http.get("/docs").status_code == 200
    assert "/v1/chat/completions" in http.get("/openapi.json").json()["paths"]


# --- images ---------------------------------------------------------------------------------------------
def ask_about(http: httpx.Client, url: str, **extra: Any) -> httpx.Response:
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "what is it?"}]
    body = {"model": "tiny-vl", "messages": [{"role": "user", "content": content}], "max_tokens": 2, "temperature": 0}
    return http.post("/v1/chat/completions", json=body | extra)


def as_url(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def bomb() -> bytes:
    """A PNG of 30,000 × 30,000 pixels in a few kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 0, 0, 0, 0)
    body = zlib.compress(b"\0" * 1_000_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "url",
    [
        "data:image/png;base64,AAAA",
        "data:image/png;base64",
        "https://example.com/x.png",
        "http://127.0.0.1:1/x.png",
        "/etc/passwd",
        "file:///etc/passwd",
        "ftp://example.com/x.png",
        as_url(bomb()),
        as_url(b"%PDF-1.4"),
    ],
    ids=["damaged", "no data", "https", "http", "path", "file url", "ftp", "bomb", "no image"],
)
def test_bad_images_are_refused(http: httpx.Client, url: str) -> None:
    answer = ask_about(http, url)
    assert answer.status_code == 400, answer.text
    assert error_of(answer)["param"] == "messages.0.content.0.image_url"
    assert "root:" not in answer.text


def test_too_many_images(http: httpx.Client) -> None:
    data = io.BytesIO()
    Image.new("RGB", (32, 32)).save(data, "PNG")
    part = {"type": "image_url", "image_url": {"url": as_url(data.getvalue())}}
    answer = http.post(
        "/v1/chat/completions", json={"model": "tiny-vl", "messages": [{"role": "user", "content": [part] * 17}]}
    )
    assert answer.status_code == 400
    assert "16" in error_of(answer)["message"]


def test_an_image_for_a_model_without_eyes(http: httpx.Client, model_dir: Path, starter_text_dir: Path) -> None:
    blind = model_dir / "blind"
    blind.symlink_to(starter_text_dir, target_is_directory=True)
    try:
        data = io.BytesIO()
        Image.new("RGB", (32, 32)).save(data, "PNG")
        answer = ask_about(http, as_url(data.getvalue()), model="blind")
        assert answer.status_code == 400
        assert error_of(answer)["code"] == "image_input_not_supported"
    finally:
        blind.unlink()


def test_exif_and_alpha(http: httpx.Client) -> None:
    upright = Image.new("RGB", (64, 32), (250, 250, 250))
    upright.paste((10, 10, 10), (0, 0, 16, 32))
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90° clockwise
    plain, rotated = io.BytesIO(), io.BytesIO()
    upright.save(plain, "PNG")
    turned.save(rotated, "PNG", exif=exif)
    see_through = Image.new("RGBA", (64, 32), (0, 0, 0, 0))
    white = Image.new("RGB", (64, 32), (255, 255, 255))
    clear, blank = io.BytesIO(), io.BytesIO()
    see_through.save(clear, "PNG")
    white.save(blank, "PNG")

    def logprobs(data: io.BytesIO) -> Any:
        answer = ask_about(http, as_url(data.getvalue()), logprobs=True)
        return [t["logprob"] for t in answer.json()["choices"][0]["logprobs"]["content"]]

    assert logprobs(rotated) == pytest.approx(logprobs(plain), abs=1e-4)
    assert logprobs(clear) == pytest.approx(logprobs(blank), abs=1e-4)


# --- the door -------------------------------------------------------------------------------------------
def test_only_loopback_names_and_known_origins(http: httpx.Client) -> None:
    assert http.get("/health", headers={"host": "evil.example"}).status_code == 403
    assert http.get("/health", headers={"host": "localhost:1234"}).status_code == 200
    for origin in (
        "https://evil.example",
        "null",
        "http://localhost.evil.example",
        "http://tauri.localhost.evil.example",
        "http://localhost:5173",  # any page of this machine: only where a key is asked for
    ):
        answer = http.post("/v1/chat/completions", headers={"origin": origin}, content=b"{")
        assert answer.status_code == 403
        assert error_of(answer)["code"] == "origin_not_allowed"
        assert "access-control-allow-origin" not in answer.headers
    for origin in ("tauri://localhost", "http://tauri.localhost", "https://tauri.localhost", str(http.base_url)):
        answer = http.get("/v1/models", headers={"origin": origin})
        assert answer.headers["access-control-allow-origin"] == origin
        preflight = http.options(
            "/v1/chat/completions",
            headers={
                "origin": origin,
                "access-control-request-method": "POST",
                "access-control-request-headers": "authorization, content-type",
            },
        )
        assert preflight.status_code == 204
        assert "authorization" in preflight.headers["access-control-allow-headers"]


def test_token_body_limit_and_slow_clients(tmp_path: Path, data_dir: Path) -> None:
    key = tmp_path / "key"
    key.write_text("s3cret\n")
    args = ("--api-key-file", str(key), "--max-body-mb", "1", "--client-timeout", "1")
    with sidecar(tmp_path / "s", *args, data_dir=data_dir) as running, running.client() as http:
        assert http.get("/health").status_code == 200
        refused = http.get("/v1/models")
        assert refused.status_code == 401
        assert error_of(refused)["code"] == "invalid_api_key"
        assert http.get("/v1/models", headers={"authorization": "Bearer wrong"}).status_code == 401
        allowed = {"authorization": "Bearer s3cret"}
        assert http.get("/v1/models", headers=allowed).status_code == 200

        def endless() -> Any:
            for _ in range(64):
                yield b"x" * 65536

        too_large = http.post("/v1/chat/completions", content=endless(), headers=allowed)
        assert too_large.status_code == 413
        assert error_of(too_large)["code"] == "body_too_large"
        # A body that never ends; the answer comes while the client is still sending.
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: {allowed['authorization']}\r\n"
        with socket.create_connection(("127.0.0.1", running.record["port"]), timeout=30) as slow:
            slow.sendall(f"{head}Content-Length: 10\r\n\r\n{{".encode())
            assert slow.recv(4096).startswith(b"HTTP/1.1 408 ")
        assert http.get("/health").json()["status"] == "ready"
    assert "s3cret" not in running.logs()
