"""What breaks when a name of another package goes: the words of docs/reference/upstream-names.md, written by hand."""

WORDS: dict[str, str] = {
    "._processed_prompt_columns": "after a pass that rows and a prompt shared, its next piece begins at a wrong token",
    "._prompt_length_aware_keys": "the same: inputs by the prompt's length are cut at a wrong place",
    "mlx_vlm.apc._clone_prompt_cache_for_apc": "no prefix is kept for a next turn; conversations are read anew",
    "mlx_vlm.apc._dense_checkpoint_prefix": "a kept conversation serves a continuation, but no shorter beginning of it",
    "mlx_vlm.apc._dense_checkpoint_trimmable": "as above: which caches may be cut is not known",
    "mlx_vlm.apc.multimodal_token_ids_from_config": "a picture's place among the tokens is not known: no prefix"
    " with one is kept, and none may be cut",
    "mlx_vlm.apc.snapshot_prompt_cache_row": "no prefix is kept of a row that was decoded with others",
    "mlx_vlm.embedding_loader.load_embedding_model": "no embedding model loads",
    "mlx_vlm.generate.ar.PromptProcessingBatch": "no prompt is processed: all chat stops. Its stepping is used, not its"
    " sampling",
    "mlx_vlm.generate.ar._extend_cache": "rows can't join: one request at a time",
    "mlx_vlm.generate.ar._is_sequence_aligned_prompt_kwarg": "a prompt after a kept prefix gets all tokens' inputs",
    "mlx_vlm.generate.ar._make_cache": "which caches can take tokens back is not known: no drafted tokens",
    "mlx_vlm.generate.ar._merge_prefill_prompt_kwargs": "prompts can't be processed together",
    "mlx_vlm.generate.ar._slice_sequence_aligned_prompt_kwarg": "as _is_sequence_aligned_prompt_kwarg",
    "mlx_vlm.generate.common._chunked_prefill_enabled": "families whose prompts must not be cut (PaliGemma) are cut;"
    " the self-check turns pieces off where it sees the difference",
    "mlx_vlm.models.base.install_auto_processor_patch": "families take over each other's processors, and the reason why"
    " one can't be built is lost",
    "mlx_vlm.models.base.scaled_dot_product_attention": "no pass is shared by rows and prompts (`--mixed-passes`)",
    "mlx_vlm.models.cache.BatchKVCache": "caches are joined all layers at once, in twice their memory",
    "mlx_vlm.models.cache.KVCache": "no prefix is read back from disk",
    "mlx_vlm.prompt_utils.apply_chat_template": "no chat prompt is written",
    "mlx_vlm.utils.MODEL_REMAPPING.get": "families that stand for another aren't known at import",
    "mlx_vlm.prompt_utils.get_chat_template": "models that hear, and embedding models that see, get no prompt",
    "mlx_vlm.reranker_loader.load_sequence_classification_model": "no cross-encoder loads for `/v1/rerank`",
    "mlx_vlm.utils.get_model_type": "a family's own module isn't found before it loads",
    "mlx_vlm.utils.load_processor": "embedding models that see have no processor",
    "mlx_vlm.utils.load": "no chat model loads",
    "mlx_vlm.utils.prepare_inputs": "no pictures",
    "mlx_vlm.utils.should_add_special_tokens": "some families' prompts begin with two markers, or with none",
    "mlx_vlm.vision_cache.VisionFeatureCache": "pictures are encoded anew at each turn by the families that use it",
    "transformers.AutoProcessor.from_pretrained": "no processor is built, so no chat model loads",
    "transformers.AutoTokenizer.from_pretrained": "no embedding model loads",
    "transformers.dynamic_module_utils": "the program doesn't start to load: its functions that run a model's code are"
    " taken away here, and a load without that is refused",
    "transformers.models.auto.configuration_auto.CONFIG_MAPPING_NAMES": "`mlx-sidecar selfcheck` says less",
    "transformers.models.auto.image_processing_auto.IMAGE_PROCESSOR_MAPPING_NAMES": "`mlx-sidecar selfcheck` says less",
    "transformers.models.auto.processing_auto.PROCESSOR_MAPPING_NAMES": "`mlx-sidecar selfcheck` says less",
    "transformers.models.auto.tokenization_auto.TOKENIZER_MAPPING_NAMES": "`mlx-sidecar selfcheck` says less",
    "huggingface_hub.constants.ENDPOINT": "pulls don't know the hub's address",
    "huggingface_hub.constants.HF_HUB_OFFLINE": "a load could ask the hub for a missing file: it is what keeps the"
    " library offline",
    "huggingface_hub.constants.is_offline_mode": "a pull while offline fails less clearly",
    "huggingface_hub.errors.HFValidationError": "pulls stop at their import",
    "huggingface_hub.errors.HfHubHTTPError": "pulls stop at their import",
    "huggingface_hub.errors.OfflineModeIsEnabled": "pulls stop at their import",
    "huggingface_hub.file_download.hf_hub_url": "pulls stop: a file's address",
    "huggingface_hub.hf_api.HfApi": "pulls stop: a repository's files with their hashes",
    "huggingface_hub.scan_cache_dir": "a hub model can't be deleted",
    "huggingface_hub.utils._auth.get_token": "gated models can't be pulled: the token that `hf auth login` stored",
    "huggingface_hub.utils._headers.build_hf_headers": "gated models can't be pulled",
    "._capture_rope_deltas_from_prompt_kwargs": "Qwen's and GLM's rows lose their place after a picture",
    "._get_llama_4_attn_scale": "Ministral 3 and Mistral Small 4 go one row at a time, as the self-check finds",
    "._input_ids": "a prompt's last pass isn't made: all chat stops",
    "._inputs_embeds": "what is left of a prompt isn't known: all chat stops",
    "._prompt_kwargs": "positions and picture features aren't cut to the piece: all chat stops",
}
"""By dotted name, or by ``.name`` for a private attribute of an object."""

_PASSES = ("sidecar/backend/passes.py",)
_POSITIONS = ("sidecar/backend/positions.py",)
_SIZES = ("sidecar/backend/cache_sizes.py",)
_PAUSING = ("sidecar/backend/pausing.py",)

BY_NAME: dict[str, tuple[tuple[str, ...], str]] = {
    "language_model": (
        (*_PASSES, *_POSITIONS, "sidecar/backend/selfcheck.py", "sidecar/engine/lanes.py"),
        "pictures are lost: the whole model embeds the tokens anew",
    ),
    "get_input_embeddings": (_POSITIONS, "no prompt is embedded: all chat stops"),
    "get_rope_index": (_POSITIONS, "Qwen's and GLM's positions come from what another request left"),
    "_position_ids": (_POSITIONS, "a request's positions aren't kept apart from another's, where a model keeps them"),
    "_rope_deltas": (_POSITIONS, "as `_position_ids`"),
    "_image_key": (_POSITIONS, "pictures are encoded anew at each turn"),
    "vision_cache": (_POSITIONS, "as `_image_key`"),
    "prompt_step": (_PASSES, "no prompt is processed in pieces"),
    "prefill_step_size": (_PASSES, "pieces have mlx-vlm's size"),
    "prompt_cache": (_PASSES, "all chat stops"),
    "warm_cache": (_PASSES, "no kept prefix is used"),
    "visual_pos_masks": (_PASSES, "Qwen3-VL misreads pictures in pieces; the self-check turns pieces off"),
    "logits_to_keep": (
        _PASSES,
        "the last piece computes the scores of all its tokens, where a model knew the argument",
    ),
    "rope_deltas": (_PASSES, "Qwen's rows lose their place after a picture"),
    "cross_attention_states": (_PASSES, "Llama 3.2 Vision forgets its picture after the first token"),
    "encoder_outputs": (_PASSES, "Florence-2 forgets its picture after the first token"),
    "stopping_criteria": (("sidecar/backend/loader.py",), "no chat model loads: which tokens end an answer"),
    "is_trimmable": (("sidecar/backend/caches.py",), "no drafted tokens"),
    "max_size": (_SIZES, "a sliding window's cache is counted as one that grows with the text"),
    "caches": (_SIZES, "memory of models with two caches a layer is counted as fixed"),
    "nbytes": (_SIZES, "memory of recurrent states isn't counted"),
    "vision_tower": (_PAUSING, "a picture holds up a running chat: no pause between its blocks"),
    "visual": (_PAUSING, "as `vision_tower`"),
    "vision_model": (_PAUSING, "as `vision_tower`"),
    "vision_encoder": (_PAUSING, "as `vision_tower`"),
    "vision_embed_tokens": (_PAUSING, "as `vision_tower`"),
    "image_token_index": (("sidecar/backend/prompts.py",), "older families' prompts have no place for a picture"),
    "get_class_from_dynamic_module": (
        ("sidecar/backend/trust.py",),
        "no model loads until it is known what took its place",
    ),
    "get_class_in_module": (("sidecar/backend/trust.py",), "as `get_class_from_dynamic_module`"),
    "get_cached_module_file": (("sidecar/backend/trust.py",), "as `get_class_from_dynamic_module`"),
    "resolve_trust_remote_code": (("sidecar/backend/trust.py",), "as `get_class_from_dynamic_module`"),
    "mlx_vlm.speculative.drafters": (("sidecar/cli/selfcheck.py",), "`mlx-sidecar selfcheck` stops"),
    "mlx_vlm.tools.parsers": (("sidecar/cli/selfcheck.py",), "`mlx-sidecar selfcheck` stops"),
    "mlx_vlm.models": (
        ("sidecar/cli/selfcheck.py", "sidecar/backend/families.py"),
        "which families there are isn't known",
    ),
}
"""What is looked up by name on their objects, the files that do, and what breaks. Each stands in those files' text."""
