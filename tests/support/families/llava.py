"""LLaVA's kin, Idefics, SmolVLM, InternVL, LFM2-VL, Aya."""

from __future__ import annotations

from typing import Any

from tests.support.families.spec import Config, Family, Ids, add, decoder, specials, template, tower, whole

_HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
_SPECIALS = specials("<image>", "<|system|>", "<|user|>", "<|assistant|>", "<video>")
_CLIP = tower(model_type="clip_vision_model", projection_dim=32)
_GRID = [[32, 32], [32, 64], [64, 32]]


def _llava(name: str, architecture: str, processor: str, image: Config, pictures: int = 2, **more: Any) -> None:
    def config(ids: Ids) -> Config:
        return whole(
            name,
            architecture,
            text_config=decoder(model_type=more.get("words", "llama"), tie_word_embeddings=False),
            vision_config=more.get("eyes", _CLIP),
            image_token_index=ids["<image>"],
            video_token_index=ids["<video>"],
            vision_feature_layer=-1,
            vision_feature_select_strategy=more.get("strategy", "default"),
            image_grid_pinpoints=_GRID,
            image_seq_length=16,
        )

    size = more.get("size", {"height": 32, "width": 32})
    files = {
        "preprocessor_config.json": {**_HALF, **image, "processor_class": processor, "size": size},
        "processor_config.json": {
            "processor_class": processor,
            "patch_size": 8,
            "vision_feature_select_strategy": more.get("strategy", "default"),
            "image_token": "<image>",
            "num_image_tokens": 16,
            "num_additional_image_tokens": 1 if more.get("strategy", "default") == "default" else 0,
        },
    }
    add(
        Family(
            name=name,
            config=config,
            specials=_SPECIALS,
            template=template(image="<image>\n"),
            files=lambda ids: files,
            pictures=pictures,
            side=more.get("side", 64),
            own_fault=more.get("own_fault", {}),
        )
    )


_CROP = {"crop_size": {"height": 32, "width": 32}, "image_processor_type": "CLIPImageProcessor"}
_llava("llava", "LlavaForConditionalGeneration", "LlavaProcessor", _CROP, size={"shortest_edge": 32})
_llava(
    "llava_next",
    "LlavaNextForConditionalGeneration",
    "LlavaNextProcessor",
    {**_CROP, "image_processor_type": "LlavaNextImageProcessor", "image_grid_pinpoints": _GRID},
    pictures=1,
    size={"shortest_edge": 32},
)
_llava(
    "llava_onevision",
    "LlavaOnevisionForConditionalGeneration",
    "LlavaOnevisionProcessor",
    {"image_processor_type": "LlavaOnevisionImageProcessor", "image_grid_pinpoints": _GRID},
    words="qwen2",
    eyes=tower(model_type="siglip_vision_model"),
    strategy="full",
)

# --- Idefics, SmolVLM --------------------------------------------------------------------------------------
_ROWS = tuple(f"<row_{r}_col_{c}>" for r in range(1, 5) for c in range(1, 5))
_IDEFICS = specials(
    "<|im_start|>", "<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>", *_ROWS
)
_IDEFICS_TEMPLATE = template(
    image="<image>",
    before="<|im_start|>{{ m.role }}: ",
    after="<end_of_utterance>\n",
    opening="Assistant:",
)


def _idefics(name: str, architecture: str, processor: str, image: Config, extra: Config, text: Config) -> None:
    def config(ids: Ids) -> Config:
        return whole(
            name,
            architecture,
            text_config=decoder(**text),
            vision_config=tower(model_type=f"{name}_vision"),
            image_token_id=ids["<image>"],
            scale_factor=2,
            **extra,
        )

    files = {
        "preprocessor_config.json": {
            **_HALF,
            "processor_class": processor,
            "do_image_splitting": True,
            "size": {"longest_edge": 64},
            "max_image_size": {"longest_edge": 32},
            **image,
        },
        "processor_config.json": {"processor_class": processor, "image_seq_len": 4},
    }
    add(
        Family(
            name=name,
            config=config,
            specials=_IDEFICS,
            template=_IDEFICS_TEMPLATE,
            files=lambda ids: files,
            pictures=2,
            tokenizer={
                "extra_special_tokens": {
                    "image_token": "<image>",
                    "fake_image_token": "<fake_token_around_image>",
                    "image_boundary_token": "<fake_token_around_image>",
                    "end_of_utterance_token": "<end_of_utterance>",
                    "global_image_token": "<global-img>",
                }
            },
        )
    )


_idefics(
    "idefics3",
    "Idefics3ForConditionalGeneration",
    "Idefics3Processor",
    {"image_processor_type": "Idefics3ImageProcessor"},
    {},
    {"model_type": "llama"},
)
_idefics(
    "smolvlm",
    "SmolVLMForConditionalGeneration",
    "SmolVLMProcessor",
    {"image_processor_type": "SmolVLMImageProcessor"},
    {},
    {"model_type": "llama"},
)
_idefics(
    "idefics2",
    "Idefics2ForConditionalGeneration",
    "Idefics2Processor",
    {"image_processor_type": "Idefics2ImageProcessor", "size": {"longest_edge": 32, "shortest_edge": 32}},
    {
        "perceiver_config": {
            "model_type": "idefics2_perceiver",
            "num_key_value_heads": 1,
            "resampler_depth": 1,
            "resampler_head_dim": 16,
            "resampler_n_heads": 2,
            "resampler_n_latents": 4,
        }
    },
    {"model_type": "mistral"},
)

# --- InternVL ----------------------------------------------------------------------------------------------
_INTERN = specials("<img>", "</img>", "<IMG_CONTEXT>", "<image>", "<video>")


def _intern(name: str, architecture: str, processor: str, eyes: Config) -> None:
    def config(ids: Ids) -> Config:
        return whole(
            name,
            architecture,
            text_config=decoder(model_type="qwen2", tie_word_embeddings=False, attention_bias=True),
            vision_config={**tower(), **eyes},
            image_token_index=ids["<IMG_CONTEXT>"],
            image_token_id=ids["<IMG_CONTEXT>"],
            downsample_ratio=0.5,
            force_image_size=32,
            max_dynamic_patch=4,
            use_thumbnail=True,
        )

    files = {
        "preprocessor_config.json": {**_HALF, "processor_class": processor, "size": {"height": 32, "width": 32}},
        "processor_config.json": {"processor_class": processor, "image_seq_length": 4, "num_image_token": 4},
    }
    mark = "<image>" if name == "internvl_chat" else "<IMG_CONTEXT>"
    add(
        Family(
            name=name,
            config=config,
            specials=_INTERN,
            template=template(image=mark + "\n"),
            files=lambda ids: files,
            pictures=2,
            tokenizer={
                "extra_special_tokens": {
                    "start_image_token": "<img>",
                    "end_image_token": "</img>",
                    "context_image_token": "<IMG_CONTEXT>",
                    "video_token": "<video>",
                }
            },
        )
    )


_intern("internvl_chat", "InternVLChatModel", "InternVLChatProcessor", {"model_type": "intern_vit_6b"})
_intern("internvl", "InternVLForConditionalGeneration", "InternVLProcessor", {"model_type": "internvl_vision"})

# --- LFM2-VL -----------------------------------------------------------------------------------------------
_LFM = specials(
    "<|im_start|>",
    "<|im_end|>",
    "<image>",
    "<|image_start|>",
    "<|image_end|>",
    "<|img_thumbnail|>",
    *(f"<|img_row_{r}_col_{c}|>" for r in range(1, 4) for c in range(1, 4)),
)


def _lfm(ids: Ids) -> Config:
    text = decoder(
        model_type="lfm2",
        norm_eps=1e-5,
        conv_bias=False,
        conv_L_cache=3,
        block_dim=64,
        block_ff_dim=96,
        block_multiple_of=16,
        block_ffn_dim_multiplier=1.0,
        block_auto_adjust_ff_dim=True,
        conv_dim=64,
        conv_dim_out=64,
        num_heads=4,
        layer_types=["conv", "full_attention"] * 2,
    )
    return whole(
        "lfm2_vl",
        "Lfm2VlForConditionalGeneration",
        text_config=text,
        vision_config=tower(model_type="lfm2_vl", num_patches=64, patch_size=8),
        image_token_id=ids["<image>"],
        downsample_factor=2,
        encoder_patch_size=8,
        projector_hidden_size=48,
        max_image_tokens=16,
        min_image_tokens=4,
        tile_size=64,
    )


add(
    Family(
        name="lfm2_vl",
        config=_lfm,
        specials=_LFM,
        template=template(
            image="<image>",
            before="<|im_start|>{{ m.role }}\n",
            after="<|im_end|>\n",
            opening="<|im_start|>assistant\n",
        ),
        files=lambda ids: {
            "preprocessor_config.json": {
                **_HALF,
                "image_processor_type": "Lfm2VlImageProcessor",
                "processor_class": "Lfm2VlProcessor",
                "downsample_factor": 2,
                "encoder_patch_size": 8,
                "max_image_tokens": 16,
                "min_image_tokens": 4,
                "max_num_patches": 64,
                "tile_size": 64,
                "min_tiles": 2,
                "max_tiles": 4,
                "size": {"height": 64, "width": 64},
            }
        },
        tokenizer={
            "extra_special_tokens": {
                "image_token": "<image>",
                "image_start_token": "<|image_start|>",
                "image_end_token": "<|image_end|>",
                "image_thumbnail": "<|img_thumbnail|>",
            }
        },
        pictures=2,
    )
)

# --- Aya ---------------------------------------------------------------------------------------------------
_AYA = specials(
    "<image>",
    "<|START_OF_IMG|>",
    "<|END_OF_IMG|>",
    "<|IMG_PATCH|>",
    "<|IMG_LINE_BREAK|>",
    "TILE_GLOBAL",
    *(f"TILE_{i}" for i in range(1, 8)),
    "TILE",
)


def _aya(ids: Ids) -> Config:
    return whole(
        "aya_vision",
        "AyaVisionForConditionalGeneration",
        text_config=decoder(
            model_type="cohere2",
            layer_norm_eps=1e-5,
            logit_scale=1.0,
            sliding_window=64,
            sliding_window_pattern=2,
        ),
        vision_config=tower(model_type="siglip_vision_model"),
        image_token_index=ids["<|IMG_PATCH|>"],
        downsample_factor=2,
        alignment_intermediate_size=64,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        max_splits_per_img=4,
    )


add(
    Family(
        name="aya_vision",
        config=_aya,
        specials=_AYA,
        template=template(image="<image>"),
        files=lambda ids: {
            "preprocessor_config.json": {
                **_HALF,
                "image_processor_type": "GotOcr2ImageProcessor",
                "processor_class": "AyaVisionProcessor",
                "size": {"height": 32, "width": 32},
                "crop_to_patches": True,
                "max_patches": 4,
            },
            "processor_config.json": {
                "processor_class": "AyaVisionProcessor",
                "patch_size": 8,
                "img_size": 32,
                "downsample_factor": 2,
            },
        },
        pictures=2,
    )
)
