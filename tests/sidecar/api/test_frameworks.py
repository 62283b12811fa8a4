"""Agent frameworks over a real socket: the Agents SDK, LangChain, PydanticAI's responses model, llm."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import openai
import pytest
from PIL import Image
from pydantic import BaseModel, Field, SecretStr

from tests.support.servers import Sidecar

CAPITAL = "What is the capital of France?"


class City(BaseModel):
    """A city."""

    name: str = Field(max_length=20)
    large: bool


def square() -> str:
    out = io.BytesIO()
    Image.new("RGB", (64, 64), (220, 20, 20)).save(out, "PNG")
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"


# --- the Agents SDK ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("api", ["responses", "chat_completions"])
def test_agents_sdk(server: Sidecar, api: str) -> None:
    import agents
    from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner, function_tool

    agents.set_tracing_disabled(True)
    calls: list[str] = []

    @function_tool
    def get_weather(city: str) -> str:
        """Tell the weather of a city."""
        calls.append(city)
        return "Sunny."

    async def run() -> None:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as sdk:
            model: Any
            if api == "responses":
                model = OpenAIResponsesModel(model="starter", openai_client=sdk)
            else:
                model = OpenAIChatCompletionsModel(model="starter", openai_client=sdk)
            settings = ModelSettings(max_tokens=60)
            plain = Agent(name="plain", model=model, model_settings=settings)
            assert "Paris" in str((await Runner.run(plain, CAPITAL)).final_output)
            streamed = Runner.run_streamed(plain, CAPITAL)
            kinds = [event.type async for event in streamed.stream_events()]
            assert "raw_response_event" in kinds
            assert "Paris" in str(streamed.final_output)
            forced = ModelSettings(max_tokens=60, tool_choice="required", parallel_tool_calls=False)
            tooled = Agent(name="tooled", model=model, model_settings=forced, tools=[get_weather])
            result = await Runner.run(tooled, "What is the weather in Paris?", max_turns=3)
            assert calls
            assert result.final_output is not None
            typed = Agent(name="typed", model=model, model_settings=settings, output_type=City)
            assert isinstance((await Runner.run(typed, "Paris is a city.")).final_output, City)

    asyncio.run(run())


# --- LangChain --------------------------------------------------------------------------------------------
def chat_model(server: Sidecar, **more: Any) -> Any:
    from langchain_openai import ChatOpenAI

    return ChatOpenAI(
        model="starter",
        base_url=f"{server.url}/v1",
        api_key=SecretStr("none"),
        max_retries=0,
        max_completion_tokens=60,
        **more,
    )


@pytest.mark.parametrize("responses", [False, True])
def test_langchain(server: Sidecar, responses: bool) -> None:
    model = chat_model(server, use_responses_api=responses)
    assert "Paris" in model.invoke(CAPITAL).text
    assert "Paris" in "".join(chunk.text for chunk in model.stream(CAPITAL))
    picture = {"type": "image_url", "image_url": {"url": square()}}
    seen = model.invoke([{"role": "user", "content": [{"type": "text", "text": "What colour?"}, picture]}])
    assert seen.text

    def get_weather(city: str) -> str:
        """Tell the weather of a city."""
        return city

    called = model.bind_tools([get_weather], tool_choice="required").invoke("What is the weather in Paris?")
    assert called.tool_calls[0]["name"] == "get_weather"


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
def test_langchain_structured_output(server: Sidecar, method: str) -> None:
    structured = chat_model(server).with_structured_output(City, method=method, include_raw=True)
    found = structured.invoke("Give Paris as JSON with the fields name (a text) and large (true or false).")
    if method == "json_mode":  # any JSON object: what stands in it is the model's
        assert found["raw"].text.lstrip().startswith("{")
    else:
        assert isinstance(found["parsed"], City)


def test_langchain_embeddings(server: Sidecar) -> None:
    from langchain_openai import OpenAIEmbeddings

    embedder = OpenAIEmbeddings(
        model="starter-embedding",
        base_url=f"{server.url}/v1",
        api_key=SecretStr("none"),
        check_embedding_ctx_length=False,
    )
    vectors = embedder.embed_documents(["A cat sleeps.", "A dog barks."])
    assert len(vectors) == 2
    assert len(vectors[0]) == len(embedder.embed_query("A cat.")) == 384


# --- PydanticAI, llm ---------------------------------------------------------------------------------------
def test_pydantic_ai_responses(server: Sidecar) -> None:
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIResponsesModel
    from pydantic_ai.providers.openai import OpenAIProvider

    async def run() -> None:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as sdk:
            model = OpenAIResponsesModel("starter", provider=OpenAIProvider(openai_client=sdk))
            settings: Any = {"max_tokens": 60}
            assert "Paris" in (await Agent(model, model_settings=settings).run(CAPITAL)).output
            typed = await Agent(model, output_type=City, model_settings=settings).run("Paris is a city.")
            assert isinstance(typed.output, City)

    asyncio.run(run())


def test_llm(server: Sidecar, tmp_path: Path) -> None:
    (tmp_path / "extra-openai-models.yaml").write_text(
        f'- model_id: local\n  model_name: starter\n  api_base: "{server.url}/v1"\n  can_stream: true\n'
    )
    env = {**os.environ, "LLM_USER_PATH": str(tmp_path), "OPENAI_API_KEY": "none"}
    for flags in ([], ["--no-stream"]):
        command = [sys.executable, "-m", "llm", "-m", "local", *flags, CAPITAL]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        assert "Paris" in done.stdout
