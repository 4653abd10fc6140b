"""Makes golden_*.json: ids of hard strings, by two implementations that share no code with Pellucid's.

    python tests/text/make_golden.py DIRECTORY_WITH_BOTH_GGUF_FILES

needs gguf, regex and transformers. One reference is transformers on the GGUF file itself. Its conversion forgets
SmolLM2's pre-tokenizer (digits stand alone, as the model's published tokenizer.json says), so that is put back. The
other is the naive algorithm, written out below: split, then merge the best pair until none is left. A string goes
into the file only with the ids of the naive one; where transformers differs, its ids are kept beside them with the
reason that `explain` gives. A difference without a reason stops the script.
"""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path

FILES = {"smollm2": "smollm2-135m-q4_1.gguf", "gemma3": "gemma3-270m-q4_k_m.gguf"}

TEXTS = [
    "", " ", "  ", "   ", "    ", " " * 15, " " * 16, " " * 17, " " * 31, " " * 32, " " * 100, " a", "a ",
    "  a  b   c    ", "\n", "\n\n", "\n\n\n", "a\nb", "a\n\nb", "a \n b", " \n ", "\r\n", "a\r\nb\r\n", "\r\r\r",
    "\t", "\t\t\t", "a\tb", "\t\n \t\n", "\n" * 31, "\n" * 32, "\n" * 70, "x" + "\n" * 40 + "y", "\v\f", "\u00a0",
    "a\u00a0b", "\u2003\u2009\u3000", "\u200b\u200d\ufeff", "0", "7", "12", "123", "1234", "12345", "1234567890",
    " 1", " 12 345", "3.14159", "1,000,000", "-42", "1e10", "0x1F", "v1.2.3", "２０２４", "٣٤٥", "½ ² ① Ⅳ 五",
    "10:30 2024-01-31", "Hello", " Hello", "Hello world", "Hello, world!", "The capital of France is", " Paris",
    "THE QUICK bRoWn FoX", "I'm you're he'll she'd we've it's can't 'tis", "I'M YOU'RE HE'LL",
    "don’t “quote” — dash… •", "O'Brien's 'quoted' ''double''", "antidisestablishmentarianism",
    "Donaudampfschifffahrtsgesellschaft", "supercalifragilisticexpialidocious!!!", "naïve café résumé Ångström",
    "Straße ÄÖÜ ß", "Ελληνικά", "Русский текст", "česky žluťoučký kůň", "Tiếng Việt", "Türkçe ığİI", "你好，世界。",
    "日本語のテキスト", "カタカナ ひらがな", "한국어 텍스트", "中文abc中文", "𠀀𠮷野家", "繁體字與简体字",
    "สวัสดีครับ", "हिन्दी पाठ", "বাংলা", "مرحبا بالعالم", "שלום עולם", "فارسی ۱۲۳", "\u202bRTL\u202c mixed",
    "אב ab גד", "ا\u0644\u064e\u0651\u0647", "😀", "😀😀😀", "👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇫🇷🇩🇪", "❤️",
    "a😀b", " 😀 ", "1️⃣", "🫠🪿", "e\u0301", "é", "a\u0300\u0301\u0302\u0303", "Z\u0351\u036b\u0343", "ﬁ ﬂ", "ſ",
    "Å Å", "한 한", "\0", "a\0b", "\x01\x02\x03", "\x1b[31mred\x1b[0m", "\x7f", "\ufffd",
    "\ue000", "def f(x):\n    return x + 1\n", "for (int i = 0; i < n; ++i) { a[i] += b[i]; }",
    "<div class=\"a\">&amp;</div>", "SELECT * FROM t WHERE a >= 10;", "{\"key\": [1, 2.5, null], \"k\": {}}",
    "#include <stdio.h>\n\nint main(void)\n{\n\treturn 0;\n}\n", "if x:\n\tpass\n        else:\n  pass",
    "https://example.com/a/b?c=d&e=f#g", "user@example.com", "C:\\Users\\x\\y.txt", "a_b_c __init__ camelCase",
    "==== ---- **** ....", "!!!???", "$100 €50 £20 ¥1000", "a+b=c; x≠y ≤ ∞ ∑", "`code` **bold** _it_ ~~s~~",
    "- [x] item\n- [ ] item\n1. one", "a" * 100, "ab" * 50, "-" * 200, "=" * 64, "!" * 37, "z" * 1000, "ha" * 300,
    "あ" * 50, "😀" * 20, "<|im_start|>user\nhi<|im_end|>\n", "<|endoftext|>", "<bos>a<eos>",
    "<start_of_turn>user\nhi<end_of_turn>\n", "</s><s>", "<unk><pad>", "<|im_start|", "<|im_start|><|im_start|>",
    "<0x0A><0xFF>", "[multimodal]", "<unused42>", "<mask>", "<table><tr>", "<|im_end|>\u0020x",
    "The quick brown fox jumps over the lazy dog. " * 8,
    "Once upon a time, in a land far away, there lived 3 bears; they ate porridge at 7:45 each day.\n\n\tThe End.\n",
    "Mixed: 中文 with English, العربية and 123 numbers — and emoji 🎉!\n\n* bullet\n* точка",
]  # fmt: skip


def main(folder: Path) -> None:
    for name, file in FILES.items():
        vocabulary = read(folder / file)
        naive = NaiveBpe(vocabulary) if vocabulary["model"] == "gpt2" else NaiveSpm(vocabulary)
        reference = load_reference(folder, file)
        cases = []
        for text in dict.fromkeys(TEXTS):
            case: dict[str, object] = {"text": text}
            for key, special in (("ids", False), ("special", True)):
                ids, theirs = naive.encode(text, special), reference(text, special)
                if key == "special" and ids == case["ids"] and theirs == case.get("transformers", ids):
                    continue
                case[key] = ids
                if theirs != ids:
                    reason = explain(name, text)
                    if reason is None:
                        sys.exit(f"{name}: {text!r} (special={special}): {ids} here, {theirs} by transformers")
                    case["transformers" + ("_special" if special else "")] = theirs
                    case["why"] = reason
            cases.append(case)
        lines = ",\n".join("  " + json.dumps(case) for case in cases)
        target = Path(__file__).with_name(f"golden_{name}.json")
        target.write_text(f'{{"file": {json.dumps(file)}, "cases": [\n{lines}\n]}}\n', encoding="ascii")
        print(target.name, len(cases), "cases,", sum("why" in case for case in cases), "differ from transformers")


def explain(name: str, text: str) -> str | None:
    if name == "gemma3" and " " * 32 in text:
        # It turns spaces into U+2581 before it looks for the user-defined runs of 2 to 31 spaces, finds none, and
        # merges instead. SentencePiece itself, for which the vocabulary was made, matches the runs.
        return "runs of over 31 spaces are merged, not matched"
    return None


def read(path: Path) -> dict:
    from gguf import GGUFReader

    fields = GGUFReader(path).fields
    found = {key.removeprefix("tokenizer.ggml."): field.contents() for key, field in fields.items() if ".ggml." in key}
    found["special"] = {t: i for i, t in enumerate(found["tokens"]) if found["token_type"][i] == 3}
    found["user"] = {t: i for i, t in enumerate(found["tokens"]) if found["token_type"][i] == 4}
    return found


def load_reference(folder: Path, file: str):
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    made = AutoTokenizer.from_pretrained(str(folder), gguf_file=file).backend_tokenizer
    if file == FILES["smollm2"]:
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])

    def encode(text: str, special: bool) -> list[int]:
        made.encode_special_tokens = not special
        return made.encode(text, add_special_tokens=False).ids

    return encode


def partition(text: str, table: dict[str, int]) -> list[str | int]:
    """Split ``text`` at the leftmost, then longest, of the table's texts."""
    parts: list[str | int] = []
    start = at = 0
    by_length = sorted((t for t in table if t), key=len, reverse=True)
    while at < len(text):
        match = next((t for t in by_length if text.startswith(t, at)), None)
        if match is None:
            at += 1
        else:
            parts += [text[start:at], table[match]]
            start = at = at + len(match)
    return [part for part in (*parts, text[start:]) if part != ""]


def merge(symbols: list[str], rank) -> list[str]:
    """Join the best-ranked (lowest, then leftmost) neighbours until no pair has a rank."""
    while True:
        ranked = [(rank(a, b), i) for i, (a, b) in enumerate(pairwise(symbols))]
        best = min((r for r in ranked if r[0] is not None), default=None)
        if best is None:
            return symbols
        i = best[1]
        symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]


class NaiveBpe:
    def __init__(self, v: dict) -> None:
        self.v = v
        self.ids = {t: i for i, t in enumerate(v["tokens"])}
        self.ranks = {tuple(m.split(" ")): i for i, m in enumerate(v["merges"])}
        plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
        rest = [b for b in range(256) if b not in plain]
        self.alphabet = {b: chr(b) for b in plain} | {b: chr(256 + i) for i, b in enumerate(rest)}

    def encode(self, text: str, special: bool) -> list[int]:
        import regex  # type: ignore[import-untyped]

        word = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
        ids: list[int] = []
        for part in partition(text, self.v["user"] | (self.v["special"] if special else {})):
            if isinstance(part, int):
                ids.append(part)
                continue
            for run in regex.split(r"(\p{N})", part):
                for found in word.findall(run):
                    symbols = [self.alphabet[b] for b in found.encode()]
                    ids += [self.ids[s] for s in merge(symbols, lambda a, b: self.ranks.get((a, b)))]
        return ids


class NaiveSpm:
    def __init__(self, v: dict) -> None:
        self.v = v
        pieces = [(t, i) for i, t in enumerate(v["tokens"]) if v["token_type"][i] == 1]
        self.ids = dict(pieces)
        self.ranks = {t: -v["scores"][i] for t, i in pieces}
        self.bytes = {int(t[3:5], 16): i for i, t in enumerate(v["tokens"]) if v["token_type"][i] == 6}

    def encode(self, text: str, special: bool) -> list[int]:
        ids: list[int] = []
        for part in partition(text, self.v["user"] | (self.v["special"] if special else {})):
            if isinstance(part, int):
                ids.append(part)
                continue
            for symbol in merge(list(part.replace(" ", "\u2581")), lambda a, b: self.ranks.get(a + b)):
                ids += [self.ids[symbol]] if symbol in self.ids else [self.bytes[b] for b in symbol.encode()]
        return ids


if __name__ == "__main__":
    main(Path(sys.argv[1]))
