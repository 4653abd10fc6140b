"""Tiny tokenizers of the kinds that embedders have."""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from pellucid.text.bpe import byte_characters

QWEN = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def qwen() -> Any:
    """Byte-level BPE as Qwen3-Embedding has it: it ends every text with <|endoftext|>."""
    spellings = list(byte_characters().values())
    vocabulary = {piece: i for i, piece in enumerate([*spellings, "ye", "yes", "no"])}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[("y", "e"), ("ye", "s"), ("n", "o")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(QWEN)
    made.post_processor = processors.TemplateProcessing(
        single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", len(vocabulary))]
    )
    return made


def wordpiece() -> Any:
    """WordPiece as BERT's uncased models have it."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,;東京"
    words = ["the", "an", "owl", "bird", "night", "hello", "world", "which", "active", "at", "##ed", "##ing", "##ive"]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters[:36]), *words]
    made = Tokenizer(models.WordPiece(vocab={p: i for i, p in enumerate(pieces)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.add_special_tokens(pieces[:5])
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return made


def unigram() -> Any:
    """SentencePiece unigram as XLM-R has it."""
    letters = "abcdefghijklmnopqrstuvwxyzAÉTé0123456789.,;東京ïñ▁"
    words = ["▁the", "▁an", "▁owl", "▁bird", "▁night", "▁hello", "▁world", "▁which", "▁active", "▁at", "ing", "s"]
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    scored = [(p, 0.0) for p in special] + [(w, -3.0 - i / 10) for i, w in enumerate(words)]
    scored += [(c, -8.0 - i / 10) for i, c in enumerate(letters) if c != "s"]
    made = Tokenizer(models.Unigram([*scored, ("<mask>", 0.0)], unk_id=3, byte_fallback=False))
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(" {2,}", " ")])
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    made.add_special_tokens([*special, "<mask>"])
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return made
