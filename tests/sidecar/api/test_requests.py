"""Requests as strangers' clients send them: content types, encodings, halves of characters, request lines, edges."""

from __future__ import annotations

import base64
import gzip
import io
import json
import socket
import zlib
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from PIL import Image

from sidecar.api import fields
from sidecar.api.bodies import MAX_VALUES
from tests.support.servers import Sidecar

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Hello"}]
BODY = {"model": "starter", "messages": HELLO, "max_tokens": 1, "temperature": 0}


def ask(http: httpx.Client, **change: Any) -> httpx.Response:
    """POST a chat whose body is written in ASCII, so that lone surrogates travel as escapes."""
    content = json.dumps(BODY | change).encode()
    return http.post(CHAT, content=content, headers={"content-type": "application/json"})


def error(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()["error"]
    return found


@pytest.mark.parametrize(
    "kind",
    [
        None,
        "text/plain",
        "text/plain;charset=UTF-8",
        "application/x-www-form-urlencoded",
        "APPLICATION/JSON; charset=utf-8",
        "application/vnd.api+json",
        "application/octet-stream",
    ],
)
def test_json_is_json_whatever_it_is_called(http: httpx.Client, kind: str | None) -> None:
    headers = {"content-type": kind} if kind else {}
    assert http.post(CHAT, content=json.dumps(BODY).encode(), headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("multipart/form-data; boundary=x", b"--x--"),
        ("application/x-www-form-urlencoded", b"model=starter&prompt=x"),
        ("text/xml", b"<a/>"),
        ("application/msgpack", b"\x81"),
    ],
)
def test_what_is_no_json_is_refused_by_its_header(http: httpx.Client, kind: str, content: bytes) -> None:
    found = error(http.post(CHAT, content=content, headers={"content-type": kind}), 415)
    assert found["param"] == "content-type"
    assert "JSON" in found["message"]


def raw_deflate(data: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-15)
    return deflater.compress(data) + deflater.flush()


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("gzip", gzip.compress),
        ("GZIP", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", raw_deflate),
        ("identity", bytes),
    ],
)
def test_compressed_bodies_are_unpacked(http: httpx.Client, name: str, pack: Any) -> None:
    body = pack(json.dumps(BODY).encode())
    answer = http.post(CHAT, content=body, headers={"content-type": "application/json", "content-encoding": name})
    assert answer.status_code == 200, answer.text


def test_bodies_that_can_not_be_unpacked_name_the_header(http: httpx.Client) -> None:
    def sent(encoding: str, content: bytes) -> httpx.Response:
        headers = {"content-type": "application/json", "content-encoding": encoding}
        return http.post(CHAT, content=content, headers=headers)

    packed = gzip.compress(json.dumps(BODY).encode())
    for encoding, content, status in (
        ("br", b"x", 415),
        ("zstd", b"x", 415),
        ("gzip", b"nothing", 400),
        ("gzip", packed[:-9], 400),
    ):
        assert error(sent(encoding, content), status)["param"] == "content-encoding"
    bomb = gzip.compress(b" " * (80 << 20))
    assert len(bomb) < 100_000
    assert "unpacked" in error(sent("gzip", bomb), 413)["message"]
    assert http.get("/health").status_code == 200


HALF = "cut in the middle \ud83d"


@pytest.mark.parametrize(
    "change",
    [
        {"messages": [{"role": "user", "content": HALF}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": HALF}]}]},
        {"messages": [{"role": "system", "content": HALF}, *HELLO]},
        {"messages": [{"role": "user", "content": [{"type": HALF}]}]},
        {"messages": [{"role": HALF, "content": "x"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": f"http://{HALF}/"}}]}]},
        {"model": HALF},
        {"stop": [HALF]},
        {"tools": [{"type": "function", "function": {"name": HALF}}]},
        {"tools": [{"type": "function", "function": {"name": "f", "description": HALF}}]},
        {"chat_template_kwargs": {HALF: 1}},
        {"user": HALF},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"enum": [HALF]}}}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"$ref": HALF}}}},
    ],
)
def test_half_a_character_is_never_the_servers_error(http: httpx.Client, change: dict[str, Any]) -> None:
    answer = ask(http, **change)
    assert answer.status_code < 500, answer.text
    if answer.status_code != 200:
        assert isinstance(answer.json()["error"]["message"], str)


def test_half_a_character_in_raw_bytes(http: httpx.Client) -> None:
    body = json.dumps(BODY).replace("Hello", "Hel\ud83dlo").encode("utf-8", "surrogatepass")
    assert http.post(CHAT, content=body, headers={"content-type": "application/json"}).status_code == 200


def test_whole_characters_written_as_escapes_stay_whole(http: httpx.Client) -> None:
    def tokens(text: str) -> int:
        answer = http.post(CHAT, content=text.encode(), headers={"content-type": "application/json"})
        return int(answer.json()["usage"]["prompt_tokens"])

    plain = json.dumps(BODY | {"messages": [{"role": "user", "content": "😀 Ж"}]}, ensure_ascii=False)
    assert tokens(plain) == tokens(json.dumps(json.loads(plain)))


def test_bodies_of_many_values_or_levels_are_refused(http: httpx.Client) -> None:
    def sent(path: str, content: bytes) -> httpx.Response:
        return http.post(path, content=content, headers={"content-type": "application/json"})

    many = b'{"model": "starter-embedding", "input": [' + b"1," * MAX_VALUES + b"1.5]}"
    assert "JSON values" in error(sent("/v1/embeddings", many), 413)["message"]
    wrong = b'{"model": "starter-embedding", "input": [' + b"1," * (MAX_VALUES // 2) + b"1.5]}"
    assert error(sent("/v1/embeddings", wrong), 400)["param"].startswith("input")
    deep = b"[" * 200_000
    assert error(sent(CHAT, b'{"messages": ' + deep), 400)["message"]
    nested: Any = {}
    for _ in range(200):
        nested = {"properties": {"x": nested}}
    for change in (
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": nested}}]},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": nested}}},
        {"chat_template_kwargs": nested},
    ):
        assert "deep" in error(ask(http, **change), 400)["message"]


def talk(server: Sidecar, line: str) -> bytes:
    where = urlsplit(server.url)
    with socket.create_connection((where.hostname or "", where.port or 80), timeout=20) as link:
        link.sendall(f"{line} HTTP/1.1\r\nHost: 127.0.0.1:{where.port}\r\nConnection: close\r\n\r\n".encode())
        got = b""
        while part := link.recv(65536):
            got += part
        return got


def test_request_lines_with_the_whole_address(server: Sidecar) -> None:
    assert b" 200 " in talk(server, f"GET {server.url}/health").split(b"\r\n", 1)[0]
    assert b" 404 " in talk(server, f"GET {server.url}/nothing").split(b"\r\n", 1)[0]


@pytest.mark.parametrize("path", ["/", "/health", "/v1/models", "/docs", "/openapi.json"])
def test_head_is_get_without_a_body(http: httpx.Client, path: str) -> None:
    answer = http.head(path)
    assert answer.status_code == 200
    assert not answer.content
    assert answer.headers["x-request-id"]


def test_the_page_of_the_api_loads_nothing(http: httpx.Client) -> None:
    answer = http.get("/docs")
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert CHAT in answer.text
    for loads in ("<script", "<link", "<img", "src=", "http://", "https://"):
        assert loads not in answer.text


@pytest.mark.parametrize(
    ("change", "param", "words"),
    [
        (
            {"messages": [{"role": "user", "content": [{"type": "input_video_clip"}]}]},
            "messages.0.content.0",
            "video_url",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": ""}}]}]},
            "messages.0.content.0.input_audio.data",
            "at least 1 character",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "scent"}]}]}, "messages.0.content.0", "parts of type"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content", "a text or a list of parts"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages.0.content.0", "parts of type"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]},
            "messages.0.content.0.text",
            "string",
        ),
        ({"stop": 4}, "stop", "a text or a list"),
        ({"tool_choice": "maybe"}, "tool_choice", "none"),
        ({"tool_choice": {"type": "x"}}, "tool_choice", "allowed_tools"),
    ],
)
def test_errors_name_the_field_and_no_branch_of_a_type(
    http: httpx.Client, change: dict[str, Any], param: str, words: str
) -> None:
    found = error(ask(http, **change), 400)
    assert found["param"] == param
    assert words in found["message"]


def test_allowed_tools_are_the_only_ones(http: httpx.Client) -> None:
    def tool(name: str) -> dict[str, Any]:
        parameters = {"type": "object", "properties": {}, "additionalProperties": False}
        return {"type": "function", "function": {"name": name, "parameters": parameters}}

    def choice(*names: str) -> dict[str, Any]:
        allowed = [{"type": "function", "function": {"name": n}} for n in names]
        return {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": allowed}}

    answer = ask(
        http,
        tools=[tool("first"), tool("second")],
        tool_choice=choice("second"),
        parallel_tool_calls=False,
        max_tokens=40,
    )
    assert answer.status_code == 200, answer.text
    calls = answer.json()["choices"][0]["message"]["tool_calls"]
    assert [c["function"]["name"] for c in calls] == ["second"]
    found = error(ask(http, tools=[tool("first")], tool_choice=choice("third")), 400)
    assert "third" in found["message"]


@pytest.mark.parametrize(
    ("path", "table"),
    [(CHAT, fields.CHAT), ("/v1/completions", fields.COMPLETION), ("/v1/embeddings", fields.EMBEDDING)],
)
def test_every_refused_field_is_refused_by_name_and_every_ignored_one_passes(
    http: httpx.Client, path: str, table: dict[str, fields.Refused | fields.Ignored]
) -> None:
    body = {CHAT: BODY, "/v1/completions": {"model": "starter", "prompt": "x", "max_tokens": 1}}.get(
        path, {"model": "starter-embedding", "input": "x"}
    )
    ignored = {name: "whatever" for name, entry in table.items() if isinstance(entry, fields.Ignored)}
    neutral = {n: e.neutral[0] for n, e in table.items() if isinstance(e, fields.Refused) and e.neutral}
    nulls = dict.fromkeys(table, None)
    for harmless in (ignored, neutral, nulls):
        assert http.post(path, json={**body, **harmless}).status_code == 200
    for name, entry in table.items():
        if isinstance(entry, fields.Refused):
            found = error(http.post(path, json={**body, name: "a value"}), 400)
            assert found["param"] == name
            assert found["code"] == "unsupported_parameter"
            assert entry.reason in found["message"]


def png() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (64, 64), (220, 20, 20)).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize(
    "address",
    [
        "DATA:image/png;base64,{plain}",
        "Data:IMAGE/PNG;Base64,{plain}",
        "data:;base64,{plain}",
        "data:image/png;x=y;base64,{plain}",
        "data:image/png;base64,{broken}",
        "data:image/png;base64,{safe}",
        "data:image/png;base64,{bare}",
        "data:image/png;base64,{percent}",
    ],
)
def test_data_urls_as_they_are_written(http: httpx.Client, address: str) -> None:
    plain = base64.b64encode(png()).decode()
    forms = {
        "plain": plain,
        "broken": "\n".join(plain[i : i + 76] for i in range(0, len(plain), 76)),
        "safe": plain.replace("+", "-").replace("/", "_"),
        "bare": plain.rstrip("="),
        "percent": plain.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D"),
    }
    content = [{"type": "image_url", "image_url": {"url": address.format(**forms)}}, {"type": "text", "text": "What?"}]
    assert ask(http, messages=[{"role": "user", "content": content}]).status_code == 200


def test_edges_mean_what_their_limit_means(http: httpx.Client) -> None:
    def said(**change: Any) -> str:
        answer = ask(http, max_tokens=8, **change)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["choices"][0]["message"]["content"])

    greedy = said()
    assert said(temperature=1.5, top_p=0, seed=3) == greedy
    assert said(temperature=1e-30) == greedy
    assert said(temperature=1.5, top_k=1, seed=3) == greedy
    assert said(temperature=1.5, min_p=1, seed=3) == greedy
    assert said(stop=[]) == said(stop="") == said(stop=["", ""]) == greedy
    assert said(seed=-(2**63)) == said(seed=2**63 - 1) == greedy
    assert said(logit_bias={}) == said(tools=[]) == greedy
