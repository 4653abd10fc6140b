"""A tokenizer.json as XLM-R and its kin have it: the pieces of a SentencePiece model, and its table of characters."""

from __future__ import annotations

import base64
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import Tokenizer, decoders, models, processors

from pellucid._parsers import decode_spm

TEXT = (Path(__file__).parents[1] / "reference" / "text.txt").read_text("utf-8")[:40000]


def unigram(size: int, *, split: bool) -> Any:
    """size: of the vocabulary, at most. split: text is cut at white space first, as for bge-m3; else spaces at its end
    are removed, and runs of them become one, as for multilingual-e5."""
    out = BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines()), model_writer=out, vocab_size=size - 3, model_type="unigram",
        hard_vocab_limit=False, character_coverage=0.98, minloglevel=2,
    )  # fmt: skip
    parts = decode_spm(out.getvalue())
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    listed = [(piece, 0.0) for piece in special]
    listed += [(p.decode(), float(s)) for p, s in zip(parts["pieces"][3:], parts["scores"][3:], strict=True)]
    made = Tokenizer(models.Unigram([*listed, ("<mask>", 0.0)], unk_id=3, byte_fallback=False))
    made.decoder = decoders.Metaspace()
    made.add_special_tokens([*special, "<mask>"])
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    table = json.loads(made.to_str())
    charsmap = {
        "type": "Precompiled",
        "precompiled_charsmap": base64.b64encode(parts["precompiled_charsmap"]).decode(),
    }
    meta = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
    table["normalizer"], table["pre_tokenizer"] = charsmap, meta
    if split:
        table["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, meta]}
    else:
        strip = {"type": "Strip", "strip_left": False, "strip_right": True}
        runs = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "\u2581"}
        table["normalizer"] = {"type": "Sequence", "normalizers": [charsmap, strip, runs]}
    return Tokenizer.from_str(json.dumps(table))
