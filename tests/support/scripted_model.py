"""A real model whose words are decided: weights, tokenizer and template made so that it says a script.

Clients that carry out tool calls need a model that calls the right tool with the right arguments, and no small model
does so reliably. This one does, by its weights: every piece of a script is a token of its own, each piece's row of the
output matrix points along the embedding of the piece before it, and attention and MLP add nothing (they are computed
all the same). So after a script's first token comes the script, with a lead of some 30 nats at any temperature a client
may ask for, through the engine's own prefill, sampling, grammar, detokenizer and tool-call reader.

Which script is said depends on what the conversation holds: the chat template ends a prompt with the opening token of
the first script whose ``when`` was said since the last answer. A turn that holds a tool's output is told apart so.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HIDDEN = 128
CONTEXT = 131_072
_LEAD = 30.0  # nats by which the next piece leads
_SPECIALS = ("<pad>", "<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")


@dataclass(frozen=True)
class Script:
    """``says`` is the answer to a conversation in which ``when`` (and ``also``) was said since the last answer."""

    when: str
    says: str
    also: str = ""


def tool_call(name: str, arguments: dict[str, Any]) -> str:
    """Return a call as the model writes it."""
    call = f'{{"name": {json.dumps(name)}, "arguments": {json.dumps(arguments)}}}'
    return f"<tool_call>\n{call}\n</tool_call>"


def scripted_model(
    folder: Path, scripts: Sequence[Script], *, otherwise: str = "That is not in my script.", thinks: bool = False
) -> Path:
    """Write the model into ``folder`` and return it. ``otherwise`` is said where no script fits.

    ``thinks``: its template shows ``<think>``, so that scripts may begin with a thought.
    """
    import mlx.core as mx

    spoken = [*scripts, Script("", otherwise)]
    openings = [f"<|script-{i}|>" for i in range(len(spoken))]
    specials = [*_SPECIALS, *openings]
    tokenizer = _tokenizer(specials)
    words: dict[str, int] = tokenizer["model"]["vocab"]
    chains = []
    for opening, script in zip(openings, spoken, strict=True):
        chains.append([words[opening], *(words[p] for p in _pieces(script.says, words)), words["</s>"]])
    template = _template(scripts, openings, thinks=thinks)
    config = {
        "model_type": "qwen3",
        "architectures": ["Qwen3ForCausalLM"],
        "hidden_size": HIDDEN,
        "intermediate_size": HIDDEN,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "vocab_size": len(words),
        "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000.0,
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    folder.mkdir(parents=True, exist_ok=True)
    documents = {
        "config.json": config,
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<s>",
            "eos_token": "</s>",
            "pad_token": "<pad>",
            "chat_template": template,
            "model_max_length": CONTEXT,
        },
    }
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document, ensure_ascii=False), "utf-8")
    (folder / "chat_template.jinja").write_text(template, "utf-8")
    mx.save_safetensors(str(folder / "model.safetensors"), _weights(config, chains), metadata={"format": "mlx"})
    return folder


def _pieces(text: str, words: dict[str, int]) -> list[str]:
    """Return a text as pieces that are no word of the vocabulary yet, spelled as it spells them, and enter them."""
    from tokenizers import pre_tokenizers

    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    spelled = "".join(part for part, _ in level.pre_tokenize_str(text))
    pieces: list[str] = []
    at = 0
    while at < len(spelled):
        end = at + 3
        while spelled[at:end] in words and end < len(spelled):
            end += 1
        piece = spelled[at:end]
        while piece in words:  # a short end that was there before goes with the piece before it
            piece = pieces.pop() + piece
            del words[piece[: -len(spelled[at:end])]]
        words[piece] = 0
        pieces.append(piece)
        at = end
    for i, word in enumerate(words):  # ids are places; what was there before keeps its own
        words[word] = i
    return pieces


def _tokenizer(specials: Sequence[str]) -> dict[str, Any]:
    """Return a byte-level ``tokenizer.json``, its merges learnt from the project's own pages."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    root = Path(__file__).parents[2]
    pages = [root / "README.md", *sorted((root / "docs" / "guides").glob("*.md"))]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=3000,
        special_tokens=list(specials),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([p.read_text("utf-8") for p in pages], trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in specials])
    document: dict[str, Any] = json.loads(tokenizer.to_str())
    vocabulary = document["model"]["vocab"]
    document["model"]["vocab"] = dict(sorted(vocabulary.items(), key=lambda item: item[1]))
    return document


def _template(scripts: Sequence[Script], openings: Sequence[str], *, thinks: bool) -> str:
    """Return the chat template: roles, tools, calls, and at the end the token that opens the script that fits."""
    choice = ""
    for i, script in enumerate(scripts):
        test = f"{json.dumps(script.when)} in last and {json.dumps(script.also)} in last"
        choice += f"{{% {'el' if i else ''}if {test} %}}{openings[i]}"
    choice += f"{{% else %}}{openings[-1]}{{% endif %}}" if scripts else openings[-1]
    thought = "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}" if thinks else ""
    return (
        "{% if tools %}<|system|>\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}{% endif %}"
        "{% for m in messages %}<|{{ m.role }}|>\n" + thought + "{{ m.content }}"
        "{% for c in m.tool_calls or [] %}<tool_call>\n"
        '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n</tool_call>{% endfor %}'
        "\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n"
        "{% set asked = namespace(text='') %}{% for m in messages %}"
        "{% set asked.text = '' if m.role == 'assistant' else asked.text ~ m.content %}{% endfor %}"
        "{% set last = asked.text %}" + choice + "{% endif %}"
    )


def _weights(config: dict[str, Any], chains: Sequence[Sequence[int]]) -> dict[str, Any]:
    import mlx.core as mx
    from mlx.utils import tree_flatten

    from tests.support.families.folder import instance

    mx.random.seed(0)
    flat: Any = tree_flatten(instance(config).parameters())
    weights: dict[str, Any] = dict(flat)
    embeddings = mx.random.normal((config["vocab_size"], HIDDEN))
    output = 0.02 * mx.random.normal((config["vocab_size"], HIDDEN))
    for chain in chains:
        for before, after in itertools.pairwise(chain):
            output[after] = output[after] + embeddings[before] * (_LEAD / HIDDEN)
    for name, value in weights.items():
        if name.endswith("embed_tokens.weight"):
            weights[name] = embeddings
        elif name.endswith("lm_head.weight"):
            weights[name] = output
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            weights[name] = mx.zeros_like(value)
    return weights
