"""Qwen's models that see, and those built like them."""

from __future__ import annotations

from typing import Any

from tests.support.families.spec import Config, Family, Ids, add, decoder, specials, template, tower, whole
from tests.support.families.text import LINEAR, ROUTED

_TOKENS = specials("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
_TEMPLATE = template(
    image="<|vision_start|><|image_pad|><|vision_end|>",
    before="<|im_start|>{{ m.role }}\n",
    after="<|im_end|>\n",
    opening="<|im_start|>assistant\n",
)
MROPE = {"type": "default", "rope_type": "default", "mrope_section": [4, 2, 2]}
_PARTIAL = {
    "rope_type": "default",
    "type": "default",
    "mrope_section": [2, 1, 1],
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.5,
}
_MOE: Config = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "norm_topk_prob": True,
    "shared_expert_intermediate_size": 32,
}


def media(ids: Ids) -> Config:
    """Return the ids of Qwen's picture tokens."""
    return {
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
    }


def vit(**more: Any) -> Config:
    """Return a small tower of Qwen's kind."""
    return tower(
        depth=3,
        num_heads=2,
        patch_size=8,
        spatial_patch_size=8,
        spatial_merge_size=2,
        temporal_patch_size=2,
        in_channels=3,
        out_hidden_size=64,
        **more,
    )


def processor(name: str, **more: Any) -> dict[str, Config]:
    """Return the processor's file for Qwen's picture processor with patches of 8."""
    return {
        "preprocessor_config.json": {
            "image_processor_type": "Qwen2VLImageProcessor",
            "processor_class": name,
            "patch_size": 8,
            "merge_size": 2,
            "temporal_patch_size": 2,
            "min_pixels": 32 * 32,
            "max_pixels": 64 * 64,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
            **more,
        }
    }


def _qwen(
    name: str, architecture: str, processor_class: str, text: Config, vision: Config, *, flat: bool = False
) -> None:
    def config(ids: Ids) -> Config:
        words = decoder(**text)
        if flat:  # the language model's fields stand at the top
            return whole(name, architecture, **words, vision_config=vision, **media(ids))
        return whole(name, architecture, text_config=words, vision_config=vision, **media(ids))

    add(
        Family(
            name=name,
            config=config,
            specials=_TOKENS,
            template=_TEMPLATE,
            files=lambda ids: processor(processor_class),
            pictures=2,
        )
    )


_qwen(
    "qwen3_vl",
    "Qwen3VLForConditionalGeneration",
    "Qwen3VLProcessor",
    {"model_type": "qwen3_vl_text", "rope_scaling": MROPE, "tie_word_embeddings": True},
    vit(model_type="qwen3_vl", num_position_embeddings=64, deepstack_visual_indexes=[0, 1]),
)
_qwen(
    "qwen3_vl_moe",
    "Qwen3VLMoeForConditionalGeneration",
    "Qwen3VLProcessor",
    {"model_type": "qwen3_vl_moe_text", "rope_scaling": MROPE, **_MOE},
    vit(model_type="qwen3_vl_moe", num_position_embeddings=64, deepstack_visual_indexes=[0, 1]),
)
_qwen(
    "qwen2_5_vl",
    "Qwen2_5_VLForConditionalGeneration",
    "Qwen2_5_VLProcessor",
    {"rope_scaling": {"type": "mrope", "mrope_section": [4, 2, 2]}},
    vit(model_type="qwen2_5_vl", window_size=32, fullatt_block_indexes=[1]),
    flat=True,
)
_qwen(
    "qwen2_vl",
    "Qwen2VLForConditionalGeneration",
    "Qwen2VLProcessor",
    {"rope_scaling": {"type": "mrope", "mrope_section": [4, 2, 2]}},
    {**vit(model_type="qwen2_vl", embed_dim=32), "hidden_size": 64},
    flat=True,
)
_qwen(
    "qwen3_5",
    "Qwen3_5ForConditionalGeneration",
    "Qwen3VLProcessor",
    {"model_type": "qwen3_5_text", "rope_parameters": _PARTIAL, **LINEAR},
    vit(model_type="qwen3_5", num_position_embeddings=64, deepstack_visual_indexes=[]),
)
_qwen(
    "qwen3_5_moe",
    "Qwen3_5MoeForConditionalGeneration",
    "Qwen3VLProcessor",
    {"model_type": "qwen3_5_moe_text", "rope_parameters": _PARTIAL, **LINEAR, **_MOE},
    vit(model_type="qwen3_5_moe", num_position_embeddings=64, deepstack_visual_indexes=[]),
)

# --- GLM: positions as Qwen's, its own names ---------------------------------------------------------------
_GLM = specials(
    "[gMASK]",
    "<sop>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|begin_of_image|>",
    "<|end_of_image|>",
    "<|image|>",
    "<|begin_of_video|>",
    "<|end_of_video|>",
    "<|video|>",
)


def _glm(name: str, architecture: str, processor_class: str, text: Config, vision: Config) -> None:
    def config(ids: Ids) -> Config:
        pictures = {
            "image_token_id": ids["<|image|>"],
            "image_token_index": ids["<|image|>"],
            "video_token_id": ids["<|video|>"],
            "video_token_index": ids["<|video|>"],
            "vision_start_token_id": ids["<|begin_of_image|>"],
            "vision_end_token_id": ids["<|end_of_image|>"],
            "image_start_token_id": ids["<|begin_of_image|>"],
            "image_end_token_id": ids["<|end_of_image|>"],
            "video_start_token_id": ids["<|begin_of_video|>"],
            "video_end_token_id": ids["<|end_of_video|>"],
        }
        words = decoder(**text)
        eyes = dict(vision)
        if name == "glm_ocr":  # its configuration takes no field that it doesn't know
            del words["rope_theta"], words["bos_token_id"]
            unknown = (
                "spatial_patch_size",
                "num_hidden_layers",
                "num_attention_heads",
                "num_channels",
                "layer_norm_eps",
            )
            eyes = {k: v for k, v in vision.items() if k not in unknown}
        return whole(name, architecture, text_config=words, vision_config=eyes, **pictures, hidden_size=64)

    add(
        Family(
            name=name,
            config=config,
            specials=_GLM,
            template=template(image="<|begin_of_image|><|image|><|end_of_image|>"),
            files=lambda ids: processor(processor_class, image_processor_type="Glm4vImageProcessor"),
            pictures=2,
        )
    )


_SECTIONS = {"rope_type": "default", "type": "default", "mrope_section": [2, 1, 1]}
_GLM_VIT = vit(rms_norm_eps=1e-5, attention_bias=False)
_glm(
    "glm4v",
    "Glm4vForConditionalGeneration",
    "Glm4vProcessor",
    {
        "model_type": "glm4v_text",
        "partial_rotary_factor": 0.5,
        "rope_scaling": _SECTIONS,
        "eos_token_id": [2],
        "attention_bias": True,
    },
    {**_GLM_VIT, "model_type": "glm4v"},
)
_glm(
    "glm4v_moe",
    "Glm4vMoeForConditionalGeneration",
    "Glm4vMoeProcessor",
    {
        "model_type": "glm4v_moe_text",
        "partial_rotary_factor": 0.5,
        "rope_scaling": _SECTIONS,
        "eos_token_id": [2],
        "attention_bias": True,
        "use_qk_norm": False,
        "tie_word_embeddings": False,
        **ROUTED,
    },
    {**_GLM_VIT, "model_type": "glm4v_moe"},
)
_glm(
    "glm_ocr",
    "GlmOcrForConditionalGeneration",
    "Glm46VProcessor",
    {
        "model_type": "glm_ocr_text",
        "rope_parameters": {
            "rope_type": "default",
            "mrope_section": [4, 2, 2],
            "partial_rotary_factor": 1.0,
            "rope_theta": 10000.0,
        },
        "eos_token_id": [2],
    },
    {**_GLM_VIT, "model_type": "glm_ocr_vision", "attention_bias": True},
)
