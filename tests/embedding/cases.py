"""The table of tiny embedders and rerankers."""

from __future__ import annotations

import numpy as np

from tests.embedding.files import Embedding, dense_weights
from tests.families.case import Array, Case, Gguf, Settings, Weights, common_keys, interleaved

TASK = "Instruct: Given a question, retrieve passages that answer it\nQuery: "


def qwen3_keys(config: Settings) -> Settings:
    return {**common_keys(config), "pooling_type": 3}


def mean_keys(config: Settings) -> Settings:
    return {**common_keys(config), "pooling_type": 1}


def qwen2_keys(config: Settings) -> Settings:
    return {**qwen3_keys(config), "attention.key_length": None, "attention.value_length": None}


def gemma_keys(config: Settings) -> Settings:
    return {
        **common_keys(config),
        "attention.sliding_window": config["sliding_window"],
        "rope.freq_base": config["rope_parameters"]["full_attention"]["rope_theta"],
        "pooling_type": 1,
        "dense_2_feat_in": 64,
        "dense_2_feat_out": 96,
        "dense_3_feat_in": 96,
        "dense_3_feat_out": 64,
    }


def gemma_dense(config: Settings) -> Weights:
    return {
        "dense_2.weight": dense_weights(304, 0, 96, 64, False)["linear.weight"],
        "dense_3.weight": dense_weights(304, 1, 64, 96, False)["linear.weight"],
    }


def gemma_norms(config: Settings, name: str, value: Array) -> Array:
    return value + np.float32(1.0) if "norm" in name else value


NORMS = frozenset({"layer_norm_eps", "num_attention_heads", "pad_token_id"})
MODERN = frozenset({"num_attention_heads", "norm_eps", "local_attention", "global_attn_every_n_layers"})
DENSE = frozenset({"dense_2_feat_out", "dense_3_feat_in", "dense_3_feat_out"})
POOLER = r"pooler\."
BERT = {"vocab_size": 110, "type_vocab_size": 3, "num_attention_heads": 4, "layer_norm_eps": 1e-5}
BERT_GAINS = {r"(position|token_type)_embeddings": 2.0, r"(query|key)\.weight$": 2.0}


def first_position(config: Settings) -> int:
    return config["pad_token_id"] + 1 if "roberta" in config["model_type"] else 0


def bert_keys(config: Settings) -> Settings:
    return {
        "context_length": config["max_position_embeddings"] - first_position(config),
        "block_count": config["num_hidden_layers"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"],
        "attention.layer_norm_epsilon": config["layer_norm_eps"],
        "attention.causal": False,
        "pooling_type": 2 if config["model_type"] == "xlm-roberta" else 1,
    }


def nomic_keys(config: Settings) -> Settings:
    return {**bert_keys(config), "rope.freq_base": config["rope_parameters"]["rope_theta"]}


def modern_keys(config: Settings) -> Settings:
    rope = config["rope_parameters"]
    return {
        **bert_keys({**config, "layer_norm_eps": config["norm_eps"]}),
        "attention.sliding_window": config["local_attention"],
        "attention.sliding_window_pattern": config["layer_types"].index("full_attention", 1),
        "rope.freq_base": rope["full_attention"]["rope_theta"],
        "rope.freq_base_swa": rope["sliding_attention"]["rope_theta"],
        "rope.scaling.type": "none",
        "pooling_type": 2,
    }


def bert_tensors(config: Settings, name: str, value: Array) -> Array | Weights:
    if name.startswith("pooler"):
        return {}
    return value[first_position(config) :] if name.startswith("embeddings.position") else value


def reranker_keys(config: Settings) -> Settings:
    return {**bert_keys(config), "pooling_type": 4, "classifier.output_labels": ["LABEL_0"]}


def reranker_tensors(config: Settings, name: str, value: Array) -> Array | Weights:
    name = name.removeprefix("roberta.")
    changed = bert_tensors(config, name, value)
    return changed if isinstance(changed, dict) else {name: changed}


ONE_LABEL = {"num_labels": 1}
RERANKER_GAINS = {**BERT_GAINS, r"classifier.*weight": 2.0}
CASES = (
    Embedding(
        Case(
            "qwen3_embedding", "Qwen3-Embedding", "Qwen3Config", 301, "the last token; saved without a head",
            sizes={"vocab_size": 262, "head_dim": 24, "rms_norm_eps": 1e-5}, auto="AutoModel",
            gguf=Gguf("qwen3", qwen3_keys),
        ),
        "qwen", "lasttoken", prompts={"query": TASK, "document": ""},
    ),
    Embedding(
        Case(
            "qwen3_embedding_odd", "Qwen3-Embedding", "Qwen3Config", 317, "one layer, five heads of 18 columns",
            sizes={
                "vocab_size": 262, "num_hidden_layers": 1, "num_attention_heads": 5, "num_key_value_heads": 1,
                "hidden_size": 44, "intermediate_size": 70, "head_dim": 18,
            },
            auto="AutoModel", gguf=Gguf("qwen3", qwen3_keys),
        ),
        "qwen", "lasttoken",
    ),
    Embedding(
        Case(
            "qwen3_dense", "Qwen3-Embedding", "Qwen3Config", 302, "mean, two dense layers, a default prompt",
            sizes={"vocab_size": 262, "head_dim": 16}, auto="AutoModel",
        ),
        "qwen", "mean", dense=((80, True), (48, False)), prompts={"query": TASK, "passage": "Passage: "},
        prompt="passage",
    ),
    Embedding(
        Case(
            "qwen3_reranker", "Qwen3-Reranker", "Qwen3Config", 303, "answers yes or no",
            sizes={"vocab_size": 262, "head_dim": 16, "tie_word_embeddings": True, "max_position_embeddings": 1024},
        ),
        "qwen",
    ),
    Embedding(
        Case(
            "llama_embedding", "llama", "LlamaConfig", 318, "the mean; saved without a head",
            sizes={"vocab_size": 262, "head_dim": 16}, auto="AutoModel",
            gguf=Gguf("llama", mean_keys, change=interleaved),
        ),
        "qwen", "mean",
    ),
    Embedding(
        Case(
            "mistral_embedding", "llama", "MistralConfig", 319, "windows of 24 tokens; the last one",
            sizes={"vocab_size": 262, "head_dim": 24, "sliding_window": 24}, auto="AutoModel",
        ),
        "qwen", "lasttoken", prompts={"query": TASK},
    ),
    Embedding(
        Case(
            "qwen2_embedding", "Qwen2, Qwen2.5", "Qwen2Config", 320, "the last token; saved without a head",
            sizes={"vocab_size": 262}, auto="AutoModel", gguf=Gguf("qwen2", qwen2_keys),
        ),
        "qwen", "lasttoken", prompts={"query": TASK},
    ),
    Embedding(
        Case(
            "gemma2_embedding", "Gemma 2", "Gemma2Config", 321, "the mean; windows of 24 tokens, caps that bend scores",
            sizes={"vocab_size": 262, "head_dim": 24, "sliding_window": 24, "attn_logit_softcapping": 5.0},
            auto="AutoModel",
        ),
        "qwen", "mean",
    ),
    Embedding(
        Case(
            "qwen3_moe_embedding", "Qwen3-MoE", "Qwen3MoeConfig", 322, "the last token; eight experts",
            sizes={"vocab_size": 262, "head_dim": 24, "num_experts": 8, "num_experts_per_tok": 2,
                   "moe_intermediate_size": 32, "norm_topk_prob": True},
            auto="AutoModel",
        ),
        "qwen", "lasttoken",
    ),
    Embedding(
        Case(
            "embedding_gemma", "EmbeddingGemma", "Gemma3TextConfig", 304, "windows of 12 tokens to both sides",
            strict=True, read=frozenset({"use_bidirectional_attention"}), resized=DENSE,
            sizes={
                "vocab_size": 262, "head_dim": 24, "num_key_value_heads": 1, "num_hidden_layers": 7,
                "sliding_window": 24, "query_pre_attn_scalar": 24, "use_bidirectional_attention": True,
            },
            auto="AutoModel", gguf=Gguf("gemma-embedding", gemma_keys, change=gemma_norms, extra=gemma_dense),
        ),
        "qwen", "mean", dense=((96, False), (64, False)),
        prompts={"query": "task: search result | query: ", "document": "title: none | text: "},
    ),
    Embedding(
        Case(
            "bert", "BERT", "BertConfig", 305, "learned positions, three token types",
            strict=True, read=NORMS, optional=POOLER, sizes=BERT,
            auto="AutoModel", gguf=Gguf("bert", bert_keys, change=bert_tensors), gains=BERT_GAINS,
        ),
        "wordpiece", "mean",
    ),
    Embedding(
        Case(
            "bert_odd", "BERT", "BertConfig", 315, "one layer, heads of 7 columns",
            sizes={
                **BERT, "hidden_size": 21, "num_attention_heads": 3, "num_hidden_layers": 1, "intermediate_size": 33,
            },
            auto="AutoModel", gguf=Gguf("bert", bert_keys, change=bert_tensors), gains=BERT_GAINS,
        ),
        "wordpiece", "mean",
    ),
    Embedding(
        Case(
            "xlm_roberta", "XLM-R", "XLMRobertaConfig", 306, "positions from 2; the first token",
            strict=True, read=NORMS, optional=POOLER,
            sizes={**BERT, "pad_token_id": 1, "type_vocab_size": 1, "max_position_embeddings": 258},
            auto="AutoModel", gguf=Gguf("bert", bert_keys, change=bert_tensors), gains=BERT_GAINS,
        ),
        "unigram", "cls",
    ),
    Embedding(
        Case(
            "roberta", "RoBERTa", "RobertaConfig", 310, "positions from 2",
            strict=True, read=NORMS, optional=POOLER,
            sizes={**BERT, "pad_token_id": 1, "type_vocab_size": 1, "max_position_embeddings": 258},
            auto="AutoModel", gguf=Gguf("bert", bert_keys, change=bert_tensors), gains=BERT_GAINS,
        ),
        "unigram", "mean",
    ),
    Embedding(
        Case(
            "bert_reranker", "BERT reranker", "BertConfig", 311, "a classifier of two texts; two types; any number",
            strict=True, read=NORMS,
            sizes={**BERT, **ONE_LABEL, "sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"},
            auto="AutoModelForSequenceClassification", gains=RERANKER_GAINS,
        ),
        "wordpiece",
    ),
    Embedding(
        Case(
            "xlm_reranker", "XLM-R reranker", "XLMRobertaConfig", 312, "a classifier of two layers",
            strict=True, read=NORMS,
            sizes={**BERT, **ONE_LABEL, "pad_token_id": 1, "type_vocab_size": 1, "max_position_embeddings": 258},
            auto="AutoModelForSequenceClassification", gains=RERANKER_GAINS,
            gguf=Gguf("bert", reranker_keys, change=reranker_tensors),
        ),
        "unigram",
    ),
    Embedding(
        Case(
            "roberta_reranker", "RoBERTa reranker", "RobertaConfig", 313, "a classifier of two layers",
            sizes={**BERT, **ONE_LABEL, "pad_token_id": 1, "type_vocab_size": 1, "max_position_embeddings": 258},
            auto="AutoModelForSequenceClassification", gains=RERANKER_GAINS,
            gguf=Gguf("bert", reranker_keys, change=reranker_tensors),
        ),
        "unigram",
    ),
    Embedding(
        Case(
            "nomic_bert", "Nomic BERT", "NomicBertConfig", 307, "rotation in place of learned positions",
            strict=True, read=NORMS,
            sizes={**BERT, "head_dim": 16, "pad_token_id": 0}, auto="AutoModel",
            gguf=Gguf("nomic-bert", nomic_keys), gains=BERT_GAINS,
        ),
        "wordpiece", "mean", prompts={"query": "search_query: "},
    ),
    Embedding(
        Case(
            "modernbert", "ModernBERT", "ModernBertConfig", 308, "every third layer sees all, others 8 to each side",
            strict=True, read=MODERN,
            sizes={
                "vocab_size": 110, "num_hidden_layers": 5, "local_attention": 16, "norm_eps": 1e-4,
                "cls_token_id": None, "sep_token_id": None,
            },
            auto="AutoModel", gguf=Gguf("modern-bert", modern_keys),
        ),
        "wordpiece", "cls",
    ),
    Embedding(
        Case(
            "modernbert_odd", "ModernBERT", "ModernBertConfig", 316, "every second layer sees all; heads of 14 columns",
            sizes={
                "vocab_size": 110, "num_hidden_layers": 4, "num_attention_heads": 3, "hidden_size": 42,
                "intermediate_size": 50, "local_attention": 6, "global_attn_every_n_layers": 2, "cls_token_id": None,
                "sep_token_id": None,
            },
            auto="AutoModel", gguf=Gguf("modern-bert", modern_keys),
        ),
        "wordpiece", "cls",
    ),
    Embedding(
        Case(
            "modernbert_reranker", "ModernBERT reranker", "ModernBertConfig", 314, "a classifier of the mean, a norm",
            strict=True, read=MODERN | {"classifier_pooling"},
            sizes={
                "vocab_size": 110, "num_hidden_layers": 3, "local_attention": 16, "norm_eps": 1e-4,
                "cls_token_id": None, "sep_token_id": None, "classifier_pooling": "mean", "num_labels": 1,
            },
            auto="AutoModelForSequenceClassification", gains={"classifier.weight": 4.0},
        ),
        "wordpiece",
    ),
    Embedding(
        Case(
            "modernbert_biases", "ModernBERT", "ModernBertConfig", 309, "biases, other layers with windows",
            sizes={
                "vocab_size": 110, "num_hidden_layers": 3, "local_attention": 24, "cls_token_id": None,
                "sep_token_id": None, "attention_bias": True, "mlp_bias": True, "norm_bias": True,
                "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            },
            auto="AutoModel",
        ),
        "wordpiece", "mean",
    ),
)  # fmt: skip
BY_NAME = {case.name: case for case in CASES}
