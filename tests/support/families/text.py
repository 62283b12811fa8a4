"""Families without a picture."""

from __future__ import annotations

from typing import Any

from tests.support.families.spec import WINDOW, Config, Ids, add, decoder, specials, template, whole
from tests.support.families.spec import Family as Family

_ROLES = specials("<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}
_EXPERTS: Config = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}
ROUTED: Config = {
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.0,
    "first_k_dense_replace": 1,
    "topk_method": "noaux_tc",
    "scoring_func": "sigmoid",
}
LATENT: Config = {
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
}
LINEAR: Config = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_conv_kernel_dim": 4,
    "full_attention_interval": 2,
}


def _text(name: str, model_type: str, architecture: str, **fields: Any) -> None:
    def config(ids: Ids) -> Config:
        return whole(model_type, architecture, **decoder(**fields))

    loud = 1.0 if name.startswith("gemma") else 3.0  # Gemma's embeddings are scaled up and tied to the output
    add(Family(name=name, config=config, specials=_ROLES, template=template(), embedding_gain=loud))


_text("llama", "llama", "LlamaForCausalLM", tie_word_embeddings=True)
_text("mistral", "mistral", "MistralForCausalLM", tie_word_embeddings=False, sliding_window=None)
_text("qwen2", "qwen2", "Qwen2ForCausalLM", tie_word_embeddings=True)
_text("qwen3", "qwen3", "Qwen3ForCausalLM", tie_word_embeddings=False)
_text("qwen3_moe", "qwen3_moe", "Qwen3MoeForCausalLM", tie_word_embeddings=False, **_EXPERTS)
_text(
    "qwen3_next",
    "qwen3_next",
    "Qwen3NextForCausalLM",
    tie_word_embeddings=False,
    partial_rotary_factor=0.5,
    shared_expert_intermediate_size=32,
    **_EXPERTS,
    **LINEAR,
)
_text(
    "qwen3_5_text",
    "qwen3_5_text",
    "Qwen3_5ForCausalLM",
    tie_word_embeddings=False,
    rope_parameters={
        "rope_type": "default",
        "mrope_section": [2, 1, 1],
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
    },
    **LINEAR,
)
_text("gemma", "gemma", "GemmaForCausalLM", tie_word_embeddings=True)
_text(
    "gemma2",
    "gemma2",
    "Gemma2ForCausalLM",
    tie_word_embeddings=True,
    sliding_window=WINDOW,
    attn_logit_softcapping=50.0,
    final_logit_softcapping=30.0,
    query_pre_attn_scalar=16,
)
_text(
    "gemma3_text",
    "gemma3_text",
    "Gemma3ForCausalLM",
    sliding_window=WINDOW,
    sliding_window_pattern=2,
    query_pre_attn_scalar=16,
    rope_local_base_freq=10000.0,
    rope_global_base_freq=1_000_000.0,
)
_text(
    "gemma4_text",
    "gemma4_text",
    "Gemma4ForCausalLM",
    global_head_dim=16,
    vocab_size_per_layer_input=768,
    num_kv_shared_layers=1,
    hidden_size_per_layer_input=16,
    sliding_window=WINDOW,
    sliding_window_pattern=2,
)
_text(
    "phi3",
    "phi3",
    "Phi3ForCausalLM",
    tie_word_embeddings=False,
    original_max_position_embeddings=4096,
    sliding_window=None,
)
_text(
    "gpt_oss",
    "gpt_oss",
    "GptOssForCausalLM",
    num_local_experts=4,
    num_experts_per_tok=2,
    sliding_window=WINDOW,
    rope_scaling={**_YARN, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False},
    layer_types=["sliding_attention", "full_attention"] * 2,
)
_text(
    "lfm2",
    "lfm2",
    "Lfm2ForCausalLM",
    norm_eps=1e-5,
    conv_bias=False,
    conv_L_cache=3,
    block_dim=64,
    block_ff_dim=96,
    block_multiple_of=16,
    block_ffn_dim_multiplier=1.0,
    block_auto_adjust_ff_dim=True,
    layer_types=["conv", "full_attention"] * 2,
    tie_word_embeddings=True,
)
_text("smollm3", "smollm3", "SmolLM3ForCausalLM", tie_word_embeddings=True, no_rope_layer_interval=2)
_text("deepseek_v3", "deepseek_v3", "DeepseekV3ForCausalLM", **ROUTED, **LATENT)
_text(
    "nemotron_h",
    "nemotron_h",
    "NemotronHForCausalLM",
    attention_bias=False,
    mamba_num_heads=4,
    mamba_head_dim=16,
    mamba_proj_bias=False,
    ssm_state_size=16,
    conv_kernel=4,
    n_groups=2,
    mlp_bias=False,
    layer_norm_epsilon=1e-5,
    use_bias=False,
    use_conv_bias=True,
    hybrid_override_pattern="M*M-",
    time_step_limit=[0.0, 100.0],
    time_step_min=0.001,
    time_step_max=0.1,
)
_text(
    "granitemoehybrid",
    "granitemoehybrid",
    "GraniteMoeHybridForCausalLM",
    attention_bias=False,
    embedding_multiplier=4.0,
    attention_multiplier=0.25,
    logits_scaling=2.0,
    residual_multiplier=0.5,
    layer_types=["mamba", "attention"] * 2,
    num_local_experts=4,
    num_experts_per_tok=2,
    shared_intermediate_size=32,
    mamba_n_heads=8,
    mamba_d_head=16,
    mamba_proj_bias=False,
    mamba_d_state=16,
    mamba_d_conv=4,
    mamba_n_groups=1,
    mamba_conv_bias=True,
    position_embedding_type="nope",
)
_text(
    "glm4_moe",
    "glm4_moe",
    "Glm4MoeForCausalLM",
    attention_bias=True,
    use_qk_norm=True,
    tie_word_embeddings=False,
    partial_rotary_factor=0.5,
    rope_scaling=None,
    **ROUTED,
)
