"""Ask for documents and calls of thousands of drawn schemas, eight at a time: each is valid, or refused with a path.

A model with random weights answers, so that the grammar alone decides what comes; jsonschema judges what it writes
against the schema as it was sent. An answer that its ``max_tokens`` cut is counted apart: nothing can be said of it.
A tool's parameters that can't be held are remarks, as everywhere; of those the arguments are an object, and no more is
said.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import jsonschema

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from sidecar.text.schemas import SchemaError, arguments_schema, response_schema
from tests.support import drawn, models
from tests.support.servers import sidecar

HANG = 120.0
"""Seconds without an answer that count as a hang."""


def ask(url: str, model: str, schema: dict[str, Any], number: int, *, tokens: int, ends: dict[str, int]) -> str:
    """Ask for one document, call, or call that need not come; return what became of it, "WRONG …" for a fault."""
    kind = ("document", "call", "call")[number % 3]
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": f"Fill in form {number}."}],
        "temperature": 1.0,
        "seed": number,
        "max_tokens": tokens,
        "logit_bias": ends,
    }
    if kind == "document":
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "drawn", "schema": schema}}
    else:
        function = {"name": "drawn", "parameters": schema}
        body["tools"] = [{"type": "function", "function": function}]
        body["tool_choice"] = ("required", "auto")[number % 2]
        body["parallel_tool_calls"] = number % 4 < 2
    try:
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=HANG, trust_env=False)
    except httpx.TimeoutException:
        return f"WRONG {kind}: no answer in {HANG:.0f} s"
    if answer.status_code == 400:
        said = answer.json()["error"]
        param = said["param"] or ""
        names_it = param.split(".")[0] in ("response_format", "tools") and len(said["message"]) > 20
        return f"{kind} refused" if names_it else f"WRONG {kind}: refused without its place: {answer.text}"
    if answer.status_code != 200:
        return f"WRONG {kind}: {answer.status_code} {answer.text[:300]}"
    choice = answer.json()["choices"][0]
    return judged(kind, schema, choice, forced=body.get("tool_choice") == "required")


def judged(kind: str, schema: dict[str, Any], choice: dict[str, Any], *, forced: bool) -> str:
    """Return what is to be said of an answer."""
    message, cut = choice["message"], choice["finish_reason"] == "length"
    texts = [message["content"]] if kind == "document" else []
    for call in message.get("tool_calls") or []:
        if call["function"]["name"] != "drawn":
            return f"WRONG call: of {call['function']['name']}"
        texts.append(call["function"]["arguments"])
    if cut:
        texts = texts[:-1]
    elif forced and not texts:
        return f"WRONG call: none came: {message}"
    try:
        made = (response_schema if kind == "document" else arguments_schema)(schema, strict=False)
    except SchemaError as error:
        return f"WRONG {kind}: answered, and can't be held: {error}"
    unheld = [r for r in made.remarks if "not enforced" in r]
    for text in texts:
        try:
            document = json.loads(text)
        except ValueError:
            return f"WRONG {kind}: no JSON: {text[:200]}"
        if kind == "call" and not isinstance(document, dict):
            return f"WRONG call: arguments are no object: {text[:200]}"
        checker = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)
        for fault in [] if unheld else checker.iter_errors(document):
            return f"WRONG {kind}: {text[:300]}: {fault.message[:200]}"
    if cut:
        return f"{kind} cut"
    return f"{kind} with a remark" if unheld else f"{kind} valid" if texts else "words alone"


def run(
    url: str, model: str, schemas: Sequence[dict[str, Any]], *, tokens: int = 300, at_once: int = 8
) -> tuple[Counter[str], list[tuple[int, str]]]:
    """Ask for all of them; return what became of them, and the faults with the number of their schema."""
    ends = closing(url, model)
    with ThreadPoolExecutor(at_once) as pool:
        found = list(
            pool.map(lambda one: ask(url, model, one[1], one[0], tokens=tokens, ends=ends), enumerate(schemas))
        )
    wrong = [(i, said) for i, said in enumerate(found) if said.startswith("WRONG")]
    return Counter("wrong" if said.startswith("WRONG") else said for said in found), wrong


def closing(url: str, model: str) -> dict[str, int]:
    """Return a bias for the characters that end things: without it a random model's texts go on to the limit."""
    out = {}
    for text in ('"', "}", "]", "</"):
        answer = httpx.post(f"{url}/tokenize", json={"model": model, "prompt": text}, timeout=HANG, trust_env=False)
        out[str(answer.raise_for_status().json()["tokens"][0])] = 4
    return out


def main() -> int:
    """Start a server, draw, ask, and print; 1 where anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=300, help="the most of an answer")
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--url", help="a running server to ask in place of one of its own")
    parser.add_argument("--model", default="tiny", help="with --url: the model to ask")
    args = parser.parse_args()
    schemas = drawn.many(args.count, args.seed)
    start = time.monotonic()
    if args.url:
        counts, wrong = run(args.url, args.model, schemas, tokens=args.tokens, at_once=args.at_once)
    else:
        with tempfile.TemporaryDirectory() as folder:
            models.qwen3_vl(Path(folder) / "models" / "tiny")
            root = Path(folder)
            with sidecar(root / "s", "--model-dir", str(root / "models"), data_dir=root / "data") as server:
                counts, wrong = run(server.url, "tiny", schemas, tokens=args.tokens, at_once=args.at_once)
    for said, count in sorted(counts.items()):
        print(f"{count:6} {said}")
    print(f"{len(schemas)} schemas, seed {args.seed}, {args.at_once} at once, {time.monotonic() - start:.0f} s")
    for number, said in wrong[:20]:
        print(f"\nschema {number}: {json.dumps(schemas[number], ensure_ascii=False)}\n  {said}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
