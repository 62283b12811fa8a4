"""Tag many texts as JSON, without making anyone's chat wait: python examples/python/tags.py notes/*.txt"""

import asyncio
import json
import sys
from pathlib import Path

import openai

from host_api import SidecarHost

TAGS = {"type": "array", "items": {"type": "string", "maxLength": 20}, "minItems": 1, "maxItems": 3}
SCHEMA = {"type": "object", "properties": {"tags": TAGS}, "required": ["tags"], "additionalProperties": False}


async def main(paths: list[Path]) -> None:
    """Ask for all of them at once: the engine decodes them together, and steps aside for chats."""
    async with SidecarHost() as host:
        at = host.connection
        form = {"type": "json_schema", "json_schema": {"name": "tags", "schema": SCHEMA}}
        common = {"model": "starter", "response_format": form, "service_tier": "flex", "max_tokens": 200}
        asks = [[{"role": "user", "content": f"Tags for this text: {path.read_text()}"}] for path in paths]
        async with openai.AsyncOpenAI(base_url=at.api_url, api_key=at.token or "none") as client:
            answers = await asyncio.gather(*(client.chat.completions.create(messages=ask, **common) for ask in asks))
    for path, answer in zip(paths, answers, strict=True):
        sys.stdout.write(f"{path.name}: {', '.join(json.loads(answer.choices[0].message.content)['tags'])}\n")


asyncio.run(main([Path(word) for word in sys.argv[1:]]))
