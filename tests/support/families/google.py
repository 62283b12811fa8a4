"""Gemma, PaliGemma."""

from __future__ import annotations

from typing import Any

from tests.support.families.spec import (
    WINDOW,
    Config,
    Family,
    Ids,
    add,
    decoder,
    specials,
    template,
    tower,
    whole,
)

_SPECIALS = specials(
    "<start_of_turn>",
    "<end_of_turn>",
    "<start_of_image>",
    "<end_of_image>",
    "<image_soft_token>",
    "<start_of_audio>",
    "<end_of_audio>",
    "<audio_soft_token>",
    "<video_soft_token>",
)
_NAMED = {
    "image_token": "<image_soft_token>",
    "boi_token": "<start_of_image>",
    "eoi_token": "<end_of_image>",
    "audio_token": "<audio_soft_token>",
    "boa_token": "<start_of_audio>",
    "eoa_token": "<end_of_audio>",
    "video_token": "<video_soft_token>",
}


def _turns(image: str) -> str:
    return template(
        image=image,
        before="<start_of_turn>{{ m.role }}\n",
        after="<end_of_turn>\n",
        opening="<start_of_turn>model\n",
    )


def _siglip_files(name: str, side: int, tokens: int, **more: Any) -> dict[str, Config]:
    return {
        "preprocessor_config.json": {
            "image_processor_type": "SiglipImageProcessor",
            "processor_class": name,
            "size": {"height": side, "width": side},
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
            "image_seq_length": tokens,
            **more,
        },
        "processor_config.json": {"processor_class": name, "image_seq_length": tokens},
    }


def _gemma3(name: str, window: int) -> None:
    def config(ids: Ids) -> Config:
        text = decoder(
            model_type="gemma3_text",
            sliding_window=window,
            sliding_window_pattern=2,
            query_pre_attn_scalar=16,
            mm_tokens_per_image=16,
            rope_local_base_freq=10000.0,
            rope_global_base_freq=1_000_000.0,
        )
        return whole(
            "gemma3",
            "Gemma3ForConditionalGeneration",
            text_config=text,
            vision_config=tower(model_type="siglip_vision_model", image_size=64),
            image_token_index=ids["<image_soft_token>"],
            boi_token_index=ids["<start_of_image>"],
            eoi_token_index=ids["<end_of_image>"],
            mm_tokens_per_image=16,
            hidden_size=64,
        )

    add(
        Family(
            name=name,
            config=config,
            specials=_SPECIALS,
            template=_turns("<start_of_image>"),
            files=lambda ids: _siglip_files("Gemma3Processor", 64, 16, image_processor_type="Gemma3ImageProcessor"),
            tokenizer={"extra_special_tokens": _NAMED},
            pictures=2,
            embedding_gain=1.0,
        )
    )


_gemma3("gemma3", WINDOW)
_gemma3("gemma3_img2full", 4 * WINDOW)  # a window that holds the short prompts whole


def _short_mobilenet() -> None:
    """Shorten Gemma 3n's tower, which no configuration can: 40 blocks of 300 million weights become five.

    Its last block must get 32 x 32 features: mlx-vlm's pooling is wrong for what isn't a multiple of 16 x 16.
    """
    from mlx_vlm.models.gemma3n import vision

    if hasattr(vision, "whole_adapter"):
        return
    adapter = vision.whole_adapter = vision.MobileNetV5MultiScaleFusionAdapter
    vision.gemma3n_mobilenet_def = lambda: [
        [vision._er(3, 16, 2, 1.0)],
        [vision._uir(3, 5, 32, 2, 2.0)],
        [vision._er(3, 640, 1, 1.0), vision._mmqa(2, 16, 1)],
        [vision._er(3, 1280, 2, 0.05)],
    ]
    vision.MobileNetV5MultiScaleFusionAdapter = lambda **fields: adapter(**fields, expansion_ratio=0.05)


def _gemma3n(ids: Ids) -> Config:
    text = decoder(
        model_type="gemma3n_text",
        vocab_size_per_layer_input=768,
        laurel_rank=8,
        altup_num_inputs=2,
        altup_coef_clip=120.0,
        hidden_size_per_layer_input=16,
        rope_local_base_freq=10000.0,
        sliding_window=WINDOW,
        layer_types=["sliding_attention", "full_attention"] * 2,
        num_kv_shared_layers=0,
        activation_sparsity_pattern=[0.0] * 4,
        intermediate_size=[96] * 4,
        final_logit_softcapping=30.0,
    )
    audio = {
        "model_type": "gemma3n_audio",
        "hidden_size": 32,
        "conf_num_attention_heads": 2,
        "conf_num_hidden_layers": 1,
        "sscp_conv_channel_size": [8, 8],
        "vocab_size": 8,
        "vocab_offset": 776,
    }
    return whole(
        "gemma3n",
        "Gemma3nForConditionalGeneration",
        text_config=text,
        vision_config={"model_type": "gemma3n_vision", "hidden_size": 2048, "vocab_size": 8, "vocab_offset": 768},
        audio_config=audio,
        image_token_id=ids["<image_soft_token>"],
        image_token_index=ids["<image_soft_token>"],
        audio_token_id=ids["<audio_soft_token>"],
        boi_token_id=ids["<start_of_image>"],
        eoi_token_id=ids["<end_of_image>"],
        vision_soft_tokens_per_image=256,
        audio_soft_tokens_per_image=8,
        hidden_size=64,
    )


add(
    Family(
        name="gemma3n",
        config=_gemma3n,
        specials=_SPECIALS,
        template=_turns("<image_soft_token>"),
        files=lambda ids: {
            **_siglip_files("Gemma3nProcessor", 256, 256),
            "processor_config.json": {
                "processor_class": "Gemma3nProcessor",
                "image_seq_length": 256,
                "audio_seq_length": 8,
            },
        },
        tokenizer={"extra_special_tokens": _NAMED},
        pictures=2,
        embedding_gain=1.0,
        prepare=_short_mobilenet,
    )
)


def _gemma4(name: str, **more: Any) -> None:
    def config(ids: Ids) -> Config:
        text = decoder(
            model_type="gemma4_text",
            global_head_dim=16,
            vocab_size_per_layer_input=768,
            num_kv_shared_layers=1,
            hidden_size_per_layer_input=16,
            sliding_window=WINDOW,
            sliding_window_pattern=2,
            **more,
        )
        eyes = tower(
            model_type="gemma4_vision",
            num_key_value_heads=2,
            head_dim=16,
            global_head_dim=16,
            patch_size=4,
            position_embedding_size=64,
            default_output_length=70,
            max_position_embeddings=4096,
        )
        return whole(
            "gemma4",
            "Gemma4ForConditionalGeneration",
            text_config=text,
            vision_config=eyes,
            audio_config=None,
            image_token_id=ids["<image_soft_token>"],
            audio_token_id=ids["<audio_soft_token>"],
            video_token_id=ids["<video_soft_token>"],
            boi_token_id=ids["<start_of_image>"],
            eoi_token_id=ids["<end_of_image>"],
            boa_token_id=ids["<start_of_audio>"],
            eoa_token_id=ids["<end_of_audio>"],
            vision_soft_tokens_per_image=70,
            hidden_size=64,
        )

    add(
        Family(
            name=name,
            config=config,
            specials=_SPECIALS,
            template=_turns("<image_soft_token>"),
            files=lambda ids: {
                "processor_config.json": {
                    "processor_class": "Gemma4Processor",
                    "image_processor": {"patch_size": 4, "max_soft_tokens": 70, "pooling_kernel_size": 3},
                }
            },
            tokenizer={"extra_special_tokens": _NAMED},
            pictures=2,
            embedding_gain=1.0,
        )
    )


_gemma4("gemma4")
_gemma4(
    "gemma4_bidir",
    use_bidirectional_attention="vision",
    attention_k_eq_v=True,
    num_global_key_value_heads=1,
    enable_moe_block=True,
    num_experts=4,
    top_k_experts=2,
    moe_intermediate_size=32,
)


def _paligemma(ids: Ids) -> Config:
    return whole(
        "paligemma",
        "PaliGemmaForConditionalGeneration",
        text_config=decoder(model_type="gemma", num_image_tokens=16),
        vision_config=tower(model_type="siglip_vision_model", projection_dim=64),
        image_token_index=ids["<image>"],
        projection_dim=64,
        hidden_size=64,
    )


add(
    Family(
        name="paligemma",
        config=_paligemma,
        specials=specials("<image>", "<|user|>", "<|assistant|>"),
        template="{% for m in messages %}{{ m.content }}{% endfor %}",
        files=lambda ids: _siglip_files("PaliGemmaProcessor", 32, 16),
        tokenizer={"extra_special_tokens": {"image_token": "<image>"}},
        pictures=1,
        embedding_gain=1.0,
    )
)
