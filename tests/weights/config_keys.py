"""Keys of config.json, by model_type: the fields of transformers' configuration classes (5.24; test_strict_live.py
compares them with those of the version that is installed), and others that files have or that its code asks for."""

from __future__ import annotations

_ALL = """architectures bos_token_id chunk_size_feed_forward dtype eos_token_id id2label initializer_range
    is_encoder_decoder label2id output_hidden_states pad_token_id problem_type return_dict tie_word_embeddings
    transformers_version use_cache vocab_size attention_dropout head_dim hidden_size intermediate_size
    max_position_embeddings num_attention_heads num_hidden_layers num_key_value_heads rms_norm_eps rope_parameters"""
FIELDS = {
    "llama": f"{_ALL} attention_bias hidden_act mlp_bias pretraining_tp",
    "mistral": f"{_ALL} hidden_act sliding_window",
    "qwen3": f"{_ALL} attention_bias hidden_act layer_types max_window_layers sliding_window use_sliding_window",
    "gemma3_text": f"""{_ALL} attention_bias attn_logit_softcapping final_logit_softcapping hidden_activation
        layer_types query_pre_attn_scalar sliding_window use_bidirectional_attention""",
}
# Of older versions, of other families, of tools that write folders; asked for by getattr in shared code.
OTHERS = """
    _attn_implementation _name_or_path _sliding_window_pattern attention_bias attention_chunk_size attention_multiplier
    attn_logit_softcapping auto_map cache_implementation compression_config do_sample embedding_multiplier
    final_logit_softcapping gradient_checkpointing hidden_act hidden_activation is_causal is_decoder is_llama_config
    kv_sharing_modes layer_types logit_scale logits_scaling max_length max_window_layers mlp_bias mtp_layer_types
    no_rope_layers num_experts num_labels num_local_experts original_max_position_embeddings partial_rotary_factor
    per_layer_config pruned_heads qk_norm quantization_config query_pre_attn_scalar residual_multiplier
    rope_interleaved rope_local_base_freq rope_scaling rope_theta rotary_pct scale_embeddings sliding_window
    sliding_window_pattern temperature text_config tie_encoder_decoder torch_dtype transformers.js_config
    unsloth_version use_bidirectional_attention use_flash_attn use_qk_norm use_sliding_window vision_config
    an_unknown_key
"""


def keys(model_type: str) -> list[str]:
    return sorted({*FIELDS[model_type].split(), *OTHERS.split()})


# Read: another value gives other logits, which test_strict_live.py compares with transformers'.
READ = {
    "attention_bias", "final_logit_softcapping", "hidden_act", "hidden_activation", "layer_types", "max_window_layers",
    "mlp_bias", "query_pre_attn_scalar", "rms_norm_eps", "rope_local_base_freq", "rope_parameters", "rope_scaling",
    "rope_theta", "sliding_window", "sliding_window_pattern", "use_sliding_window",
}  # fmt: skip
# Sizes: another value does not fit the tensors, and those are named.
SIZES = {
    "head_dim", "hidden_size", "intermediate_size", "max_position_embeddings", "num_attention_heads",
    "num_hidden_layers", "num_key_value_heads", "tie_word_embeddings",
}  # fmt: skip

FEW = [True, False, None, 5, "gelu", {"a": 1}]
VALUES = [True, False, None, 1, 5, 0.5, 300.0, "silu", "gelu", "gelu_pytorch_tanh", [1], {"a": 1}]
ROPES = [
    {"rope_type": "default"},
    {"rope_type": "default", "rope_theta": 300.0},
    {"type": "linear", "factor": 3.0},
    {"rope_type": "linear", "factor": 3.0, "rope_theta": 300.0},
    {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
     "original_max_position_embeddings": 64},
    *(
        {"rope_type": "linear", "factor": 2.0, key: value}
        for key, value in {
            "attention_factor": 0.5, "partial_rotary_factor": 0.5, "beta_fast": 16, "beta_slow": 2, "mscale": 0.5,
            "mscale_all_dim": 0.5, "truncate": False, "original_max_position_embeddings": 64, "long_factor": [1.0],
            "short_factor": [1.0], "low_freq_factor": 2.0, "an_unknown_key": 1, "mrope_section": [1, 1],
        }.items()
    ),
    *(
        {"rope_type": kind, "factor": 2.0, "original_max_position_embeddings": 64}
        for kind in ("dynamic", "yarn", "longrope", "proportional", "mrope", "unknown")
    ),
]  # fmt: skip


def changes(model_type: str) -> list[tuple[str, object]]:
    """(key, another value) for each key."""
    found: list[tuple[str, object]] = [
        (key, value) for key in keys(model_type) for value in (VALUES if key in READ else FEW)
    ]
    for key in ("rope_parameters", "rope_scaling"):
        found += [(key, rope) for rope in ROPES]
        found += [
            (key, {"full_attention": full, "sliding_attention": local})
            for full, local in ((ROPES[1], ROPES[0]), (ROPES[3], ROPES[1]), (ROPES[0], ROPES[3]), (ROPES[4], ROPES[1]))
        ]
    for kind in ("full_attention", "sliding_attention", "chunked_attention", "linear_attention"):
        found.append(("layer_types", [kind] * 3))
        found.append(("layer_types", [kind, "full_attention", "sliding_attention"]))
    found += [("architectures", ["OtherForCausalLM"]), ("quantization_config", {"quant_method": "awq"})]
    return found
