"""Pixtral, Mistral 3 and those built like them."""

from __future__ import annotations

from tests.support.families.spec import WINDOW, Config, Family, Ids, add, decoder, specials, template, tower, whole
from tests.support.families.text import LATENT, ROUTED

_SPECIALS = specials("[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]")
_TEMPLATE = template(
    image="[IMG]",
    before="{% if m.role == 'user' %}[INST]{% endif %}",
    after="{% if m.role == 'user' %}[/INST]{% else %}</s>{% endif %}",
    opening="",
)


def _files(name: str, merge: int) -> dict[str, Config]:
    return {
        "preprocessor_config.json": {
            "image_processor_type": "PixtralImageProcessor",
            "processor_class": name,
            "patch_size": {"height": 8, "width": 8},
            "size": {"longest_edge": 64},
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
        },
        "processor_config.json": {
            "processor_class": name,
            "patch_size": 8,
            "spatial_merge_size": merge,
            "image_token": "[IMG]",
            "image_break_token": "[IMG_BREAK]",
            "image_end_token": "[IMG_END]",
        },
    }


_EYES = tower(model_type="pixtral", head_dim=16, image_size=64, rms_norm_eps=1e-5, rope_theta=10000.0)
_SCALED = {
    "rope_type": "yarn",
    "type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 128,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.1,
}


def _mistral(name: str, model_type: str, architecture: str, processor: str, merge: int, text: Config) -> None:
    def config(ids: Ids) -> Config:
        words = decoder(**text)
        return whole(
            model_type,
            architecture,
            text_config=words,
            vision_config=_EYES,
            image_token_index=ids["[IMG]"],
            image_token_id=ids["[IMG]"],
            spatial_merge_size=merge,
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
            multimodal_projector_bias=False,
        )

    add(
        Family(
            name=name,
            config=config,
            specials=_SPECIALS,
            template=_TEMPLATE,
            files=lambda ids: _files(processor, merge),
            pictures=2,
        )
    )


_mistral("pixtral", "pixtral", "LlavaForConditionalGeneration", "PixtralProcessor", 1, {"model_type": "mistral"})
_mistral("mistral3", "mistral3", "Mistral3ForConditionalGeneration", "PixtralProcessor", 2, {"model_type": "mistral"})
_mistral(
    "mistral3_ministral",
    "mistral3",
    "Mistral3ForConditionalGeneration",
    "PixtralProcessor",
    2,
    {
        "model_type": "ministral3",
        "rope_parameters": _SCALED,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "sliding_window": WINDOW,
    },
)
_mistral(
    "mistral4",
    "mistral3",
    "Mistral3ForConditionalGeneration",
    "PixtralProcessor",
    2,
    {
        "model_type": "mistral4",
        "rope_parameters": _SCALED,
        "rope_interleave": True,
        "qk_head_dim": 24,
        **LATENT,
        **ROUTED,
    },
)
