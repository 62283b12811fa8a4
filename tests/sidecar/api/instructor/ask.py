"""Drive the server at ``argv[1]`` with Instructor; what came is printed as one JSON document."""

# mypy: ignore-errors
import json
import sys

import instructor
import openai
from pydantic import BaseModel, Field


class City(BaseModel):
    """A city."""

    name: str = Field(max_length=20)
    large: bool


class Cities(BaseModel):
    """Two cities and the largest of them."""

    all: list[City] = Field(min_length=2, max_length=2)
    largest: City


# Both layers retry by themselves, and the SDK waits ten minutes: on a busy machine a failure looked like a hang.
sdk = openai.OpenAI(base_url=f"{sys.argv[1]}/v1", api_key="none", max_retries=0, timeout=100)
ask = {
    "model": "starter",
    "messages": [{"role": "user", "content": "Paris is a large city, Nice a small one."}],
    "max_retries": 0,
    "max_tokens": 120,
    "temperature": 0,
}
out = {}
for mode in (instructor.Mode.JSON_SCHEMA, instructor.Mode.TOOLS):
    client = instructor.from_openai(sdk, mode=mode)
    out[mode.name] = client.chat.completions.create(response_model=City, **ask).model_dump()
    if mode == instructor.Mode.TOOLS:
        out["nested"] = client.chat.completions.create(response_model=Cities, **ask).model_dump()
    seen = list(client.chat.completions.create_partial(response_model=City, **ask))
    out[f"{mode.name} partial"] = [len(seen), seen[-1].model_dump()]
sys.stdout.write(json.dumps(out))
