"""What becomes of each field of a completion's body: honoured, refused by name, or ignored because it changes nothing.

The tables are read by the schemas (a refused field with a value is a 400 that says why), by the reference in docs/
and by the tests. Sources: OpenAI's API reference, vLLM's and llama.cpp's servers, November 2026.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sidecar.errors import bad_request


@dataclass(frozen=True)
class Refused:
    """A field that can't be honoured. ``neutral``: values that ask for nothing, and pass."""

    reason: str
    neutral: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Ignored:
    """A field without an effect on the answer here; the reason is for people."""

    reason: str


_ONLY_TEXT = Refused("only text is produced")
_BEAM = Refused("beam search is not done here; use n with a temperature")
_CACHE = Ignored("prefixes are kept by themselves")
_ACCOUNT = Ignored("there are no accounts on this machine")

BOTH: dict[str, Refused | Ignored] = {
    # OpenAI
    "user": _ACCOUNT,
    "safety_identifier": _ACCOUNT,
    "prompt_cache_key": _CACHE,
    "prompt_cache_options": _CACHE,
    "prompt_cache_retention": _CACHE,
    # vLLM
    "use_beam_search": _BEAM,
    "length_penalty": Refused("it belongs to beam search, which is not done here", (1, 1.0)),
    "early_stopping": Refused("it belongs to beam search, which is not done here", (False,)),
    "allowed_token_ids": Refused("use a schema, guided_choice, guided_regex or logit_bias"),
    "bad_words": Refused("use logit_bias", ([],)),
    "logits_processors": Refused("code is not taken from clients", ([],)),
    "prompt_logprobs": Refused("use echo with logprobs of /v1/completions"),
    "truncate_prompt_tokens": Refused("a prompt is never cut in silence; shorten it"),
    "skip_special_tokens": Refused("control tokens are never shown", (True,)),
    "spaces_between_special_tokens": Ignored("control tokens are not shown"),
    "include_stop_str_in_output": Refused("a stop string is never shown", (False,)),
    "return_tokens_as_token_ids": Refused("log-probabilities name tokens by their text and bytes", (False,)),
    "return_token_ids": Refused("use POST /tokenize", (False,)),
    "structural_tag": Refused("use tools or a schema"),
    "guided_decoding_backend": Ignored("there is one"),
    "guided_whitespace_pattern": Refused("JSON is written with one space after commas and colons"),
    "request_id": Ignored("the answer's X-Request-Id names the request"),
    "kv_transfer_params": Refused("there is one server"),
    "vllm_xargs": Refused("this is not vLLM"),
    # llama.cpp
    "n_predict": Refused("use max_tokens"),
    "cache_prompt": _CACHE,
    "id_slot": Ignored("rows are given out by the server"),
    "samplers": Refused("the order of the samplers is fixed: penalties, temperature, top_k, top_p, min_p"),
    "mirostat": Refused("use temperature, top_p, top_k or min_p", (0,)),
    "dynatemp_range": Refused("use temperature", (0, 0.0)),
    "typical_p": Refused("use top_p or min_p", (1, 1.0)),
    "tfs_z": Refused("use top_p or min_p", (1, 1.0)),
    "xtc_probability": Refused("use temperature, top_p, top_k or min_p", (0, 0.0)),
    "dry_multiplier": Refused("use repetition_penalty", (0, 0.0)),
    "repeat_penalty": Refused("use repetition_penalty", (1, 1.0)),
    "repeat_last_n": Ignored("penalties look at the whole answer"),
    "n_probs": Refused("use logprobs and top_logprobs", (0,)),
    "post_sampling_probs": Refused("log-probabilities are the model's own", (False,)),
    "timings_per_token": Ignored("GET /metrics has the timings"),
    "lora": Refused("adapters are not loaded here", ([],)),
    "t_max_predict_ms": Refused("use max_tokens, or leave", (0,)),
}

CHAT: dict[str, Refused | Ignored] = {
    **BOTH,
    # OpenAI
    "audio": _ONLY_TEXT,
    "modalities": Refused("only text is produced", (["text"], [])),
    "store": Refused("nothing is stored; leave it out", (False,)),
    "metadata": Ignored("it belongs to stored completions; nothing is stored"),
    "prediction": Ignored("it only saves time; --speculative-tokens finds repeated text by itself"),
    "functions": Refused("use tools"),
    "function_call": Refused("use tool_choice", ("none",)),
    "web_search_options": Refused("this server does not search the web"),
    "verbosity": Refused("the model has no such setting", ("medium",)),
    "moderation": Ignored("nothing is moderated"),
    # vLLM
    "chat_template": Refused("templates come with the model or from whoever runs the server"),
    "documents": Refused("put them into a message", ([],)),
    "add_special_tokens": Refused("the chat template writes them", (False,)),
    "echo": Refused("use continue_final_message, or /v1/completions", (False,)),
    "best_of": Refused("use n", (1,)),
    "include_reasoning": Refused("reasoning comes apart, as reasoning_content; leave it unread", (True,)),
    "format": Refused("use response_format", ("",)),
    "options": Refused("name the options beside messages", ({},)),
    "think": Refused("use reasoning_effort", (False,)),
    "tool_resources": Refused("use tools", ({},)),
    # llama.cpp
    "reasoning_format": Ignored("reasoning comes as reasoning_content"),
    "parse_tool_calls": Refused("tool calls are always read", (True,)),
    "thinking_forced_open": Refused("the chat template opens thoughts", (False,)),
}

COMPLETION: dict[str, Refused | Ignored] = {
    **BOTH,
    "thinking_budget": Refused("thoughts are told apart by /v1/chat/completions", (-1,)),
    "thinking_token_budget": Refused("thoughts are told apart by /v1/chat/completions", (-1,)),
    "min_pixels": Refused("pictures go to /v1/chat/completions"),
    "max_pixels": Refused("pictures go to /v1/chat/completions"),
    "suffix": Refused("fill-in-the-middle needs a model's own markers; write them into the prompt", ("",)),
    "add_special_tokens": Refused("a text is tokenized as the model's tokenizer does it", (True,)),
    "messages": Refused("conversations go to /v1/chat/completions"),
    "prompt_embeds": Refused("send text or token ids"),
}

EMBEDDING: dict[str, Refused | Ignored] = {
    "user": _ACCOUNT,
    "truncate_prompt_tokens": Refused("an input is never cut in silence; shorten it"),
    "additional_data": Refused("use input"),
}


def refuse(table: dict[str, Refused | Ignored], body: Any) -> Any:
    """Return ``body``; raise a 400 that names the first field of it that can't be honoured."""
    if isinstance(body, dict):
        for name, value in body.items():
            entry = table.get(name) if value is not None else None
            if isinstance(entry, Refused) and not any(value == n and type(value) is type(n) for n in entry.neutral):
                raise bad_request(f"{name} is not supported: {entry.reason}.", param=name, code="unsupported_parameter")
    return body
