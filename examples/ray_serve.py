"""A Ray Serve deployment that speaks enough of OpenAI's API for the host service: models and chat, whole or streamed.

``pip install "ray[serve]" mlx-lm`` (Linux: ``"mlx[cpu]"`` too), then
``MODEL=/path/to/model serve run examples.ray_serve:app``, and point a capability at http://127.0.0.1:8000/v1.
"""

# Ray pickles the class where it stands: no "from __future__ import annotations", and what it uses comes before it.
import json
import os
import threading
import time
from collections.abc import Iterator
from itertools import chain
from typing import Any

from fastapi import FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from ray import serve

api = FastAPI()
MODEL = "served-by-ray"


def _head(kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-ray", "object": kind, "created": int(time.time()), "model": MODEL}


def _events(pieces: Iterator[str]) -> Iterator[str]:
    for text, reason in chain(((p, None) for p in pieces), [("", "stop")]):
        delta = {"role": "assistant", "content": text}
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        yield f"data: {json.dumps({**_head('chat.completion.chunk'), 'choices': [choice]})}\n\n"
    yield "data: [DONE]\n\n"


@serve.deployment
@serve.ingress(api)
class Chat:
    """One replica: a model in memory, one answer at a time."""

    def __init__(self) -> None:
        self._one = threading.Lock()

    @api.get("/v1/models")
    def models(self) -> dict[str, Any]:
        """The one model."""
        return {"object": "list", "data": [{"id": MODEL, "object": "model"}]}

    @api.post("/v1/chat/completions")
    def chat(self, body: dict[str, Any]) -> Any:
        """An answer. A schema is refused, as many servers do."""
        if "response_format" in body:
            raise HTTPException(400, "response_format is not supported")
        pieces = self._pieces(body)
        if body.get("stream"):
            return StreamingResponse(_events(pieces), media_type="text/event-stream")
        message = {"role": "assistant", "content": "".join(pieces)}
        return {**_head("chat.completion"), "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}

    def _pieces(self, body: dict[str, Any]) -> Iterator[str]:
        from mlx_lm import load, stream_generate

        with self._one:
            model, tokenizer = load(os.environ["MODEL"])  # MLX's arrays belong to the thread that made them
            prompt = tokenizer.apply_chat_template(body["messages"], add_generation_prompt=True)
            for part in stream_generate(model, tokenizer, prompt, max_tokens=body.get("max_tokens") or 256):
                yield part.text


app = Chat.bind()  # type: ignore[attr-defined]
