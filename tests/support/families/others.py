"""Kimi-VL, dots.ocr, Llama 3.2 Vision and 4, HunYuan-VL, Phi-4 Multimodal, DeepSeek-VL2, Molmo."""

from __future__ import annotations

import functools
from typing import Any

from tests.support.families.spec import WINDOW, Config, Family, Ids, add, decoder, specials, template, tower, whole
from tests.support.families.text import LATENT, ROUTED

_HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
_ROLES = ("<|system|>", "<|user|>", "<|assistant|>")


def _kimi_vl(ids: Ids) -> Config:
    return whole(
        "kimi_vl",
        "KimiVLForConditionalGeneration",
        text_config=decoder(
            model_type="deepseek_v3", num_key_value_heads=4, **ROUTED, **(LATENT | {"q_lora_rank": None})
        ),
        vision_config=tower(
            model_type="moonvit",
            depth=2,
            embed_dim=32,
            num_heads=2,
            mlp_ratio=2.0,
            init_pos_emb_height=8,
            init_pos_emb_width=8,
            spatial_patch_size=8,
            merge_kernel_size=[2, 2],
        ),
        media_placeholder_token_id=ids["<|media_pad|>"],
        image_token_index=ids["<|media_pad|>"],
    )


add(
    Family(
        name="kimi_vl",
        config=_kimi_vl,
        specials=specials("<|media_pad|>", "<|placeholder|>", "<|im_assistant|>", *_ROLES),
        template=template(image="<|media_pad|>"),
        pictures=2,
    )
)


_DOTS = specials("<|imgpad|>", "<|img|>", "<|endofimg|>", "<|video_pad|>", *_ROLES)


def _small_dots() -> None:
    """Put the processor's token ids, which stand in its code, into this tiny one's place."""
    from mlx_vlm.models.dots_ocr.processing_dots_ocr import DotsVLProcessor

    kind: Any = DotsVLProcessor
    make = kind.__init__
    if hasattr(make, "__wrapped__"):
        return

    @functools.wraps(make)  # transformers reads its arguments' names
    def small(self: Any, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        self.image_token_id, self.video_token_id = _DOTS.index("<|imgpad|>"), _DOTS.index("<|video_pad|>")

    kind.__init__ = small


def _dots(ids: Ids) -> Config:
    words = decoder(tie_word_embeddings=False, attention_bias=True)
    words.pop("head_dim")
    eyes = tower(
        model_type="dots_vit",
        embed_dim=32,
        hidden_size=64,  # of what it gives
        patch_size=14,
        rms_norm_eps=1e-5,
        spatial_merge_size=2,
        temporal_patch_size=1,
        post_norm=True,
    )
    return whole(
        "dots_ocr",
        "DotsOCRForCausalLM",
        **words,
        vision_config=eyes,
        image_token_id=ids["<|imgpad|>"],
        video_token_id=ids["<|video_pad|>"],
    )


add(
    Family(
        name="dots_ocr",
        config=_dots,
        specials=_DOTS,
        prepare=_small_dots,
        template=template(image="<|img|><|imgpad|><|endofimg|>"),
        files=lambda ids: {
            "preprocessor_config.json": {
                **_HALF,
                "image_processor_type": "Qwen2VLImageProcessor",
                "processor_class": "DotsVLProcessor",
                "patch_size": 14,
                "merge_size": 2,
                "temporal_patch_size": 1,
                "min_pixels": 28 * 28,
                "max_pixels": 112 * 112,
            }
        },
        pictures=2,
    )
)


def _mllama(ids: Ids) -> Config:
    words = decoder(model_type="mllama_text_model", cross_attention_layers=[1, 3], rope_scaling=None)
    eyes = tower(
        model_type="mllama_vision_model",
        max_num_tiles=4,
        num_global_layers=1,
        norm_eps=1e-5,
        vision_output_dim=64,
        intermediate_layers_indices=[0],
        supported_aspect_ratios=[[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]],
    )
    return whole(
        "mllama",
        "MllamaForConditionalGeneration",
        text_config=words,
        vision_config=eyes,
        image_token_index=ids["<|image|>"],
    )


add(
    Family(
        name="mllama",
        config=_mllama,
        specials=specials("<|image|>", *_ROLES),
        template=template(image="<|image|>"),
        files=lambda ids: {
            "preprocessor_config.json": {
                **_HALF,
                "image_processor_type": "MllamaImageProcessor",
                "processor_class": "MllamaProcessor",
                "size": {"height": 32, "width": 32},
                "max_image_tiles": 4,
                "do_convert_rgb": True,
            }
        },
        tokenizer={"extra_special_tokens": {"image_token": "<|image|>"}},
        pictures=1,
    )
)


def _llama4(ids: Ids) -> Config:
    words = decoder(
        model_type="llama4_text",
        intermediate_size_mlp=96,
        num_local_experts=4,
        num_experts_per_tok=1,
        interleave_moe_layer_step=2,
        attention_chunk_size=WINDOW,
        attn_temperature_tuning=True,
        no_rope_layers=[1, 1, 1, 0],
        tie_word_embeddings=False,
    )
    eyes = tower(
        model_type="llama4_vision_model",
        initializer_range=0.02,
        norm_eps=1e-5,
        pixel_shuffle_ratio=0.5,
        projector_dropout=0.0,
        projector_input_dim=64,
        projector_output_dim=64,
        rope_theta=10000.0,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        vision_output_dim=64,
        intermediate_size=128,
    )
    return whole(
        "llama4",
        "Llama4ForConditionalGeneration",
        text_config=words,
        vision_config=eyes,
        image_token_index=ids["<|patch|>"],
        image_token_id=ids["<|patch|>"],
        boi_token_index=ids["<|image_start|>"],
        eoi_token_index=ids["<|image_end|>"],
    )


_TILES = ("<|tile_x_separator|>", "<|tile_y_separator|>")
add(
    Family(
        name="llama4",
        config=_llama4,
        specials=specials("<|patch|>", "<|image|>", "<|image_start|>", "<|image_end|>", *_TILES, *_ROLES),
        template=template(image="<|image|>"),
        files=lambda ids: {
            "preprocessor_config.json": {"processor_class": "Llama4Processor", "size": {"height": 32, "width": 32}},
            "processor_config.json": {
                "processor_class": "Llama4Processor",
                "patch_size": 8,
                "pixel_shuffle_ratio": 0.5,
            },
        },
        pictures=2,
        side=32,
    )
)


_HUNYUAN = specials("<|image|>", "<|im_start|>", "<|im_end|>", "<|newline|>", *_ROLES)


def _small_hunyuan() -> None:
    """Put HunYuan-VL's token ids and picture sizes, which stand in the code, into these tiny ones' place."""
    from mlx_vlm.models.hunyuan_vl import processing_hunyuan_vl as module

    place = {token: i for i, token in enumerate(_HUNYUAN)}
    kind: Any = module.HunYuanVLProcessor
    kind.IMAGE_TOKEN_ID, kind.PAD_TOKEN_ID = place["<|image|>"], place["<pad>"]
    kind.IM_START_TOKEN_ID, kind.IM_END_TOKEN_ID = place["<|im_start|>"], place["<|im_end|>"]
    make: Any = module.HunYuanVLImageProcessor.__init__
    make.__defaults__ = (64 * 64, 128 * 128, *make.__defaults__[2:])


def _hunyuan(ids: Ids) -> Config:
    xdrope = {
        "alpha": 1000.0,
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 1.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "type": "xdrope",
        "xdrope_section": [2, 2, 2, 2],
    }
    words = decoder(model_type="hunyuan_vl", attention_head_dim=16, rope_scaling=xdrope, pad_id=0)
    eyes = tower(model_type="hunyuan_vl", out_hidden_size=64, patch_size=16, max_image_size=128)
    eyes |= {"img_max_token_num": 64, "max_vit_seq_len": 64, "rms_norm_eps": 1e-5}
    return whole(
        "hunyuan_vl",
        "HunYuanVLForConditionalGeneration",
        text_config=words,
        vision_config=eyes,
        image_token_id=ids["<|image|>"],
        image_start_token_id=ids["<|im_start|>"],
        image_end_token_id=ids["<|im_end|>"],
        image_newline_token_id=ids["<|newline|>"],
        pad_id=0,
        org_vocab_size=768,
    )


add(
    Family(
        name="hunyuan_vl",
        config=_hunyuan,
        specials=_HUNYUAN,
        template=template(image="<|im_start|><|image|><|im_end|>"),
        pictures=2,
        prepare=_small_hunyuan,
    )
)


def _phi4mm(ids: Ids) -> Config:
    hearing = {
        "attention_dim": 16,
        "attention_heads": 2,
        "num_blocks": 1,
        "linear_units": 16,
        "ext_pw_out_channel": 16,
        "depthwise_seperable_out_channel": 16,
        "conv_channels": 16,
    }
    eyes = tower(model_type="siglip2_vision_model", image_size=64)
    return whole(
        "phi4mm",
        "Phi4MMForCausalLM",
        **decoder(partial_rotary_factor=0.75, original_max_position_embeddings=4096, tie_word_embeddings=True),
        vision_config=eyes,
        mm_hidden_size=32,
        audio_processor={"name": "cascades", "config": hearing},
        image_token_index=-200,
        min_num_patches=4,
        max_num_patches=64,
    )


add(
    Family(
        name="phi4mm",
        config=_phi4mm,
        specials=specials("<|endoftext10|>", *_ROLES),
        template=template(image="<|image_1|>"),
        pictures=2,
    )
)


def _deepseek_vl_v2(ids: Ids) -> Config:
    words = decoder(model_type="deepseek_v2", num_key_value_heads=4, moe_layer_freq=1, **ROUTED, **LATENT)
    words |= {"topk_method": "greedy", "scoring_func": "softmax", "q_lora_rank": None}
    eyes = {
        "model_type": "vision",
        "layers": 2,
        "width": 32,
        "intermediate_size": 48,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
        "mlp_ratio": 1.5,
    }
    projector = {"model_type": "mlp_projector", "projector_type": "downsample_mlp_gelu", "input_dim": 32, "n_embed": 64}
    return whole(
        "deepseek_vl_v2",
        "DeepseekVLV2ForCausalLM",
        language_config=words,
        vision_config=eyes,
        projector_config=projector,
        image_token_index=ids["<image>"],
        num_image_tokens=4,
        candidate_resolutions=[[32, 32], [32, 64], [64, 32]],
    )


add(
    Family(
        name="deepseek_vl_v2",
        config=_deepseek_vl_v2,
        specials=specials(
            "<image>",
            "<|ref|>",
            "<|/ref|>",
            "<|det|>",
            "<|/det|>",
            "<|grounding|>",
            "<|User|>",
            "<|Assistant|>",
            *_ROLES,
        ),
        template=template(image="<image>\n"),
        files=lambda ids: {
            "processor_config.json": {
                "processor_class": "DeepseekVLV2Processor",
                "candidate_resolutions": [[32, 32], [32, 64], [64, 32]],
                "patch_size": 8,
                "downsample_ratio": 2,
                "pad_token": "<pad>",
                "image_token": "<image>",
            }
        },
        pictures=2,
        own_fault={"image": "mlx-vlm's own embeddings of a picture change from call to call, at the picture's tokens"},
    )
)

_MOLMO = ("<im_patch>", "<im_start>", "<im_end>", "<im_col>", "<|image|>")


def _molmo(ids: Ids) -> Config:
    words = {
        "model_type": "molmo",
        "d_model": 64,
        "n_heads": 4,
        "n_kv_heads": 2,
        "n_layers": 4,
        "mlp_hidden_size": 96,
        "vocab_size": 768,
        "embedding_size": 768,
        "additional_vocab_size": 16,
        "rope_theta": 10000.0,
        "max_position_embeddings": 4096,
    }
    eyes = {
        "model_type": "molmo",
        "image_default_input_size": [64, 64],
        "image_patch_size": 8,
        "image_pos_patch_size": 8,
        "hidden_size": 96,
        "image_emb_dim": 32,
        "image_num_heads": 2,
        "image_num_key_value_heads": 2,
        "image_num_layers": 4,
        "image_head_dim": 16,
        "image_mlp_dim": 48,
        "image_num_pos": 65,
        "d_model": 64,
        "vit_layers": [-1, -2],
    }
    return whole("molmo", "MolmoForCausalLM", text_config=words, vision_config=eyes)


add(
    Family(
        name="molmo",
        config=_molmo,
        specials=specials(*_MOLMO, *_ROLES),
        template=template(),
        files=lambda ids: {
            "preprocessor_config.json": {
                "processor_class": "MolmoProcessor",
                "max_crops": 2,
                "overlap_margins": [1, 1],
                "base_image_input_size": [64, 64],
                "image_patch_size": 8,
                "image_token_length_w": 4,
                "image_token_length_h": 4,
            }
        },
        pictures=1,
    )
)
