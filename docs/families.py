"""Writes the table of families into models.md and src/pellucid/families.json, from the tests' tables of tiny models:
python docs/families.py. A test compares them."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE, DATA = ROOT / "docs" / "models.md", ROOT / "src" / "pellucid" / "families.json"
START, END = "<!-- families: made by docs/families.py -->\n", "<!-- end of families -->\n"
# What the page calls a case's family, where it says more; and architectures of tests/reference/tiny.py.
TITLES = {
    "BERT reranker": "BERT cross-encoders, ms-marco-MiniLM",
    "BERT": "BERT, MiniLM, mxbai-embed, bge",
    "Command-R, Aya": "Command-R, Command-R+, Aya",
    "DeepSeek V2": "DeepSeek V2 and V3, Moonlight",
    "DeepSeek V3, Moonlight": "DeepSeek V2 and V3, Moonlight",
    "EmbeddingGemma": "EmbeddingGemma (`use_bidirectional_attention`)",
    "ERNIE 4.5": "ERNIE 4.5, dense",
    "Gemma": "Gemma 1",
    "Gemma 4": "Gemma 4 (E2B, E4B, 12B, 31B, 26B-A4B)",
    "gemma3": "Gemma 3",
    "GLM-4": "GLM-4, dense",
    "GLM-4.5": "GLM-4.5, GLM-4.5-Air",
    "gpt-oss": "gpt-oss (folders with experts in MXFP4 too)",
    "Granite 3, 4 (dense)": "Granite 3 and 4, dense",
    "Hunyuan": "Hunyuan, dense",
    "llama": "Llama 1 to 3, SmolLM2, Mistral and similar models",
    "ModernBERT reranker": "ModernBERT cross-encoders, gte-reranker-modernbert",
    "Nemotron": "Nemotron (Minitron)",
    "Nomic BERT": "Nomic BERT, nomic-embed-text",
    "OLMo 2": "OLMo 2, OLMo 3",
    "OLMo 3": "OLMo 2, OLMo 3",
    "Phi-2": "Phi-1, Phi-1.5, Phi-2",
    "Phi-3, Phi-4": "Phi-3, Phi-3.5, Phi-4",
    "Qwen2-MoE": "Qwen1.5-MoE, Qwen2-MoE",
    "qwen3": "Qwen3",
    "Qwen3-Embedding": "Qwen3-Embedding, Qwen3-Reranker",
    "Qwen3-Reranker": "Qwen3-Embedding, Qwen3-Reranker",
    "RoBERTa reranker": "XLM-R cross-encoders, bge-reranker",
    "RoBERTa": "XLM-R, bge-m3, multilingual-e5",
    "XLM-R reranker": "XLM-R cross-encoders, bge-reranker",
    "XLM-R": "XLM-R, bge-m3, multilingual-e5",
}


def rows() -> list[dict[str, object]]:
    """The families, by name."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    from pellucid import arch
    from pellucid.folder import Wrapper
    from tests.embedding import cases as embedding
    from tests.embedding import files
    from tests.families.case import load_golden, text_config
    from tests.families.cases import CASES
    from tests.reference import tiny

    known = arch.folders()
    kinds: dict[tuple[str, str], set[str]] = defaultdict(set)
    counts: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])

    def add(family: str, kind: str, file: str | None) -> None:
        """A tiny model. file: the architecture of its GGUF file; None: it is a folder alone."""
        family = TITLES.get(family, family)
        others = [one for (name, one), found in kinds.items() if name == family and kind in found]
        architecture = file or (others or known[kind])[0]
        kinds[family, architecture].add(kind)
        counts[family, architecture][0] += 1
        counts[family, architecture][1] += file is not None

    models = [(case, load_golden(case)) for case in CASES]
    models += [(case.model, files.load_golden(case).model) for case in embedding.CASES]
    for case, golden in sorted(models, key=lambda model: model[0].gguf is None):  # those of files first
        add(case.family, text_config(golden.config)["model_type"], case.gguf.arch if case.gguf else None)
    for model in tiny.TINY:
        add(model.arch, tiny.config(model)["model_type"], model.arch)
    made = []
    for (family, architecture), types in kinds.items():
        wrappers = [
            kind
            for kind, (_, table) in known.items()
            if isinstance(table, Wrapper)
            and any(text in types and known[text][0] == architecture for text in table.texts)
        ]
        folders, gguf = counts[family, architecture]
        made.append(
            {
                "name": family,
                "architecture": architecture,
                "model_types": sorted(types),
                "wrappers": sorted(wrappers),
                "folders": folders,
                "files": gguf,
            }
        )
    return sorted(made, key=lambda row: str(row["name"]).lower())


def table(made: list[dict[str, object]]) -> str:
    """The rows as the page has them."""
    lines = [
        "| models | GGUF (`general.architecture`) | folders (`model_type`) | tiny models, as a folder and as GGUF |",
        "|---|---|---|---|",
    ]
    for row in made:
        types = ", ".join(f"`{kind}`" for kind in row["model_types"])  # type: ignore[attr-defined]
        wrapped = ", ".join(f"`{kind}`" for kind in row["wrappers"])  # type: ignore[attr-defined]
        wrapped = wrapped and f"; the text model of {wrapped}"
        lines.append(
            f"| {row['name']} | `{row['architecture']}` | {types}{wrapped} | {row['folders']}, {row['files']} |"
        )
    return "\n".join(lines) + "\n"


def page(made: list[dict[str, object]]) -> str:
    """models.md with the table of these rows."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    return f"{before}{START}\n{table(made)}\n{END}{rest.partition(END)[2]}"


def data(made: list[dict[str, object]]) -> str:
    """families.json: a row per line."""
    return "[\n" + ",\n".join(json.dumps(row) for row in made) + "\n]\n"


if __name__ == "__main__":
    found = rows()
    PAGE.write_text(page(found), encoding="utf-8")
    DATA.write_text(data(found), encoding="utf-8")
