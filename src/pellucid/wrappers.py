"""Folders of models that also take images, videos or audio, and whose text model Pellucid runs.

Sources: transformers' configurations, and its conversion_mapping.py for tensor names; keys that only released folders
have. Some models are missing on purpose. For Aya Vision, Command A Vision and Granite Vision, transformers leaves out
the factor of logits (`logit_scale`, `logits_scaling`) that the text model alone has. PaliGemma attends bidirectionally
over its prompt. Only one key distinguishes GLM-4V's GGUF files from GLM-4's, which rotate other pairs.
"""

from __future__ import annotations

from dataclasses import replace

from pellucid.folder import Wrapper

_IMAGES = frozenset({"vision_config", "image_token_id", "image_token_index"})
_VIDEOS = _IMAGES | {"video_token_id", "video_token_index"}
_AUDIO = frozenset({"audio_config", "audio_token_id", "audio_token_index", "projector_hidden_act"})
_BOTH = "images and videos"

_QWEN = _VIDEOS | {"vision_start_token_id", "vision_end_token_id", "vision_token_id"}
_LLAVA = _VIDEOS | {
    "ignore_index",
    "image_grid_pinpoints",
    "image_seq_length",
    "multimodal_projector_bias",
    "projector_hidden_act",
    "projector_layernorm_eps",
    "spatial_pool_mode",
    "spatial_pool_stride",
    "use_image_newline_parameter",
    "video_seq_length",
    "vision_aspect_ratio",
    "vision_feature_layer",
    "vision_feature_select_strategy",
    "vocab_size",
}
_GEMMA4 = Wrapper(
    classes=("Gemma4ForConditionalGeneration",),
    texts=("gemma4_text",),
    other=_VIDEOS
    | _AUDIO
    | {"boi_token_id", "eoi_token_id", "boa_token_id", "eoa_token_index", "eoa_token_id"}
    | {"vision_soft_tokens_per_image"},
    lacks="images, videos and audio",
)
_IDEFICS = Wrapper(
    classes=("Idefics3ForConditionalGeneration",),
    texts=("llama",),
    other=_IMAGES
    | {"scale_factor", "neftune_noise_alpha", "perceiver_config", "pixel_shuffle_factor", "vocab_size"}
    | {"_pad_token_id"},
    parts=r"model\.connector\..+",
)

WRAPPERS = {
    "deepseek_vl": Wrapper(
        classes=("DeepseekVLForConditionalGeneration",), texts=("llama",), other=_IMAGES, parts=r"model\.aligner\..+"
    ),
    "exaone4_5": Wrapper(
        classes=("Exaone4_5_ForConditionalGeneration",), texts=("exaone4",), other=_VIDEOS, lacks=_BOTH
    ),
    "gemma3": Wrapper(
        classes=("Gemma3ForConditionalGeneration",),
        texts=("gemma3_text",),
        other=_IMAGES | {"mm_tokens_per_image", "boi_token_index", "eoi_token_index"},
    ),
    "gemma4": _GEMMA4,
    "gemma4_unified": replace(
        _GEMMA4, classes=("Gemma4UnifiedForConditionalGeneration",), texts=("gemma4_unified_text",)
    ),
    "glmasr": Wrapper(
        classes=("GlmAsrForConditionalGeneration",), texts=("llama",), other=_AUDIO, lacks="audio"
    ),
    "got_ocr2": Wrapper(classes=("GotOcr2ForConditionalGeneration",), texts=("qwen2",), other=_LLAVA),
    "idefics2": replace(_IDEFICS, classes=("Idefics2ForConditionalGeneration",), texts=("mistral",)),
    "idefics3": _IDEFICS,
    "internvl": Wrapper(
        classes=("InternVLForConditionalGeneration",),
        texts=("qwen2", "qwen3", "qwen3_moe", "llama", "gpt_oss"),
        other=_LLAVA | {"downsample_ratio"},
        lacks=_BOTH,
    ),
    "janus": Wrapper(
        classes=("JanusForConditionalGeneration",),
        texts=("llama",),
        other=_IMAGES | {"vq_config"},
        parts=r"model\.(aligner|generation_\w+|vqmodel)\..+",
    ),
    "lfm2_vl": Wrapper(
        classes=("Lfm2VlForConditionalGeneration",),
        texts=("lfm2", "lfm2_moe"),
        other=_IMAGES | {
            "do_image_splitting",
            "downsample_factor",
            "encoder_patch_size",
            "max_image_tokens",
            "max_num_patches",
            "max_pixels_tolerance",
            "max_tiles",
            "min_image_tokens",
            "min_tiles",
            "projector_bias",
            "projector_hidden_act",
            "projector_hidden_size",
            "projector_use_layernorm",
            "tile_size",
            "use_image_special_tokens",
            "use_thumbnail",
            "vision_feature_layer",
        },
    ),
    "lfm3_vl": Wrapper(
        classes=("Lfm3VlForConditionalGeneration",),
        texts=("lfm3",),
        other=_QWEN | {"projector_bias", "projector_hidden_act", "projector_hidden_size"},
        lacks=_BOTH,
    ),
    "lighton_ocr": Wrapper(
        classes=("LightOnOcrForConditionalGeneration",),
        texts=("qwen3",),
        other=_IMAGES | {"spatial_merge_size"},
        parts=r"model\.vision_(encoder|projection)\..+",
    ),
    "llava": Wrapper(
        classes=("LlavaForConditionalGeneration",), texts=("llama", "mistral", "qwen2", "qwen3"), other=_LLAVA
    ),
    "llava_next": Wrapper(
        classes=("LlavaNextForConditionalGeneration",),
        texts=("llama", "mistral", "qwen2"),
        other=_LLAVA,
        parts=r"(model\.)?image_newline",
    ),
    "llava_next_video": Wrapper(
        classes=("LlavaNextVideoForConditionalGeneration",),
        texts=("llama", "mistral", "qwen2"),
        other=_LLAVA,
        parts=r"(model\.)?image_newline",
        lacks=_BOTH,
    ),
    "llava_onevision": Wrapper(
        classes=("LlavaOnevisionForConditionalGeneration",),
        texts=("qwen2", "qwen3", "llama"),
        other=_LLAVA,
        parts=r"(model\.)?image_newline",
        lacks=_BOTH,
    ),
    "minicpmv4_6": Wrapper(
        classes=("MiniCPMV4_6ForConditionalGeneration",),
        texts=("qwen3_5_text",),
        other=_VIDEOS
        | {"downsample_mode", "drop_vision_last_layer", "image_size", "insert_layer_id", "merge_kernel_size"}
        | {"merger_times", "patch_size"},
        parts=r"model\.merger\..+",
        lacks=_BOTH,
    ),
    "mistral3": Wrapper(
        classes=("Mistral3ForConditionalGeneration",),
        texts=("mistral", "ministral3", "mistral4"),
        other=_IMAGES
        | {"multimodal_projector_bias", "projector_hidden_act", "spatial_merge_size", "vision_feature_layer"},
    ),
    "qwen2_5_vl": Wrapper(
        classes=("Qwen2_5_VLForConditionalGeneration",),
        texts=("qwen2_5_vl_text",),
        other=_QWEN,
        flat=True,
        lacks=_BOTH,
    ),
    "qwen2_audio": Wrapper(
        classes=("Qwen2AudioForConditionalGeneration",),
        texts=("qwen2",),
        other=_AUDIO | {"ignore_index", "vocab_size"},
        lacks="audio",
    ),
    "qwen2_vl": Wrapper(
        classes=("Qwen2VLForConditionalGeneration",), texts=("qwen2_vl_text",), other=_QWEN, flat=True, lacks=_BOTH
    ),
    "qwen3_5": Wrapper(
        classes=("Qwen3_5ForConditionalGeneration",), texts=("qwen3_5_text",), other=_QWEN, lacks=_BOTH
    ),
    "qwen3_5_moe": Wrapper(
        classes=("Qwen3_5MoeForConditionalGeneration",), texts=("qwen3_5_moe_text",), other=_QWEN, lacks=_BOTH
    ),
    "qwen3_vl": Wrapper(
        classes=("Qwen3VLForConditionalGeneration",), texts=("qwen3_vl_text",), other=_QWEN, lacks=_BOTH
    ),
    "qwen3_vl_moe": Wrapper(
        classes=("Qwen3VLMoeForConditionalGeneration",), texts=("qwen3_vl_moe_text",), other=_QWEN, lacks=_BOTH
    ),
    "smolvlm": replace(_IDEFICS, classes=("SmolVLMForConditionalGeneration",), lacks=_BOTH),
    "video_llama_3": Wrapper(
        classes=("VideoLlama3ForConditionalGeneration",),
        texts=("qwen2",),
        other=_VIDEOS,
        parts=r"model\.projector\..+",
        lacks=_BOTH,
    ),
    "video_llava": Wrapper(
        classes=("VideoLlavaForConditionalGeneration",),
        texts=("llama",),
        other=_LLAVA,
        parts=r"(model\.)?(image|video)_tower\..+",
        lacks=_BOTH,
    ),
    "vipllava": Wrapper(classes=("VipLlavaForConditionalGeneration",), texts=("llama",), other=_LLAVA),
    "voxtral": Wrapper(
        classes=("VoxtralForConditionalGeneration",),
        texts=("llama",),
        other=_AUDIO | {"hidden_size", "vocab_size"},
        lacks="audio",
    ),
}  # fmt: skip
