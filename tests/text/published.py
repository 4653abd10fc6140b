"""Pre-tokenizers as published in the families' tokenizer.json files (where these are public), and hard strings.

The names that GGUF files give them, and the steps of "pre_tokenizer" in order. A string is the expression of a Split
whose matches are isolated; ``BYTES`` is ByteLevel without, ``GPT2`` with its own expression.
"""

from __future__ import annotations

import json

BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
GPT2 = {**BYTES, "use_regex": True}
DIGITS = {"type": "Digits", "individual_digits": True}
_LETTERS = (
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\u1f7dᾀ-ᾴᾶ-ᾼ\u1fbe"
    "ῂ-ῄῆ-ῌῐ-\u1fd3ῖ-\u1fdbῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u2126ℨ\u212a-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ"
    "𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"
)
_O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
)
_DEEPSEEK = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
_DEEPSEEK_CJK = "[一-龥\u0800-一가-\ud7ff]+"

PUBLISHED: dict[str, list[object]] = {
    "gpt-2 gpt-neox phi-2 mpt olmo jais trillion granite-docling exaone4 mellum gigachat a.x-4.0 jina-es jina-de "
    "jina-v2-es jina-v2-de jina-v1-en jina-v2-code roberta-bpe modern-bert": [GPT2],
    "smollm starcoder refact command-r codeshell exaone minerva-7b mellum2": [DIGITS, GPT2],
    "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano dbrx smaug-bpe glm4 glm5 "
    "chatglm-bpe": [
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        BYTES,
    ],
    "qwen2 deepseek-r1-qwen stablelm2 hunyuan megrez kormo solar-open grok-2 f2llmv2": [
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        BYTES,
    ],
    "qwen35": [
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
        r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        BYTES,
    ],
    "gpt-4o llama4 kanana2 talkie minimax-m2 granite-embed-multi-97m": [
        _O200K + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        BYTES,
    ],
    "tekken": [
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
        r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        BYTES,
    ],
    "deepseek-llm": [
        r"[\r\n]", rf"\s?[{_LETTERS}]+", "\\s?[!-/:-~！-／：-～‘-‟\u3000-。]+", r"\s+$", _DEEPSEEK_CJK, DIGITS, BYTES,
    ],
    "deepseek-coder": [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _DEEPSEEK_CJK, DIGITS, BYTES],
    "deepseek-v3 hunyuan-dense hy_v4 joyai-llm": [
        r"\p{N}{1,3}", "[一-龥\u3040-ゟ゠-ヿ]+", _DEEPSEEK + r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+", BYTES,
    ],
    "spark2_5": [
        r"\p{N}{1,3}", "[一-龥\u3040-ゟ゠-ヿ]+", _DEEPSEEK + r"| ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+", r"\p{N}", BYTES,
    ],
    "youtu": [
        "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥\u3040-ゟ゠-ヿ]+",
        _O200K + r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        BYTES,
    ],
    "falcon": [
        {"type": "Punctuation", "behavior": "Contiguous"}, GPT2, {"type": "Digits", "individual_digits": False},
        "[0-9][0-9][0-9]",
    ],
    "kimi-k2": [
        r"[\p{Han}]+"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*"
        r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+"
        r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        BYTES,
    ],
    "bailingmoe bailingmoe2 llada-moe": [
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
        BYTES,
    ],
    "seed-coder": [
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}"
        r"| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+",
        BYTES,
    ],
    "exaone-moe": [
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n/]?"
        r"|\s*[\r\n]|\s+(?!\S)|\s+",
        BYTES,
    ],
    "bloom gpt3-finnish poro-chat": [r" ?[^(\s|[.,!?…。，、।۔،])]+", BYTES],
    "viking": [r" ?[^(\s|[.,!?…。，、।۔،])]+", DIGITS, BYTES],
    "tiny_aya cohere2moe": [
        r"\d{1,3}(?=(?:\d{3})*\b)",
        _O200K + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        BYTES,
    ],
    "afmoe": [
        r"\p{Nd}{1,3}(?=(?:\p{Nd}{3})*(?!\p{Nd}))",
        "[一-鿿㐀-䶿\uf900-\ufaff\u3040-ゟ゠-ヿ･-ﾟ⼀-\u2fdfเ-\u0e7f\u0e80-\u0effក-\u17ffက-႟ꩠ-ꩿꧠ-\ua9ff가-\ud7afᄀ-ᇿ]+",
        _DEEPSEEK + r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        BYTES,
    ],
    "superbpe": [r"\p{N}+", r"(?=(\d{3})+(?!\d))", BYTES],
    "jais-2": [
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)"
        r"|\s{1,2}(?!\S)|\s{1}",
        BYTES,
    ],
    "chameleon": [
        "<sentinel:[0-9]+>", "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", r"([\t\n]|    |  )", DIGITS,
        {"type": "Punctuation", "behavior": "Isolated"}, GPT2,
    ],
    "minicpm5": [
        r"\p{N}{1,3}",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        BYTES,
    ],
    "laguna": [
        r"[^\n]+|[\n]+",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        BYTES,
    ],
    "k2-horizon": [
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\u200C\u200D\p{M}\p{L}]+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        BYTES,
    ],
    "ufakzeka": [r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+", BYTES],
    "default": [
        r"[\p{P}$+<=>^~|]+", r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", r"\p{N}+",
        "[0-9][0-9][0-9]", BYTES,
    ],
}  # fmt: skip

# Characters are those of Unicode 13 and before: about later ones, implementations differ.
TEXTS = [
    " ", "  ", "   ", " " * 17, " a", "a ", "  a  b   c    ", "\n", "\n\n\n", "a\nb", "a\n\nb", "a \n b",
    " \n ", "\r\n", "a\r\nb\r\n\r\n", "\r\r\r", "\t", "a\tb", "\t\n \t\n", "x  \n\n  y", "\v\f",
    "a\x85b\u2028c", "\u00a0", "a\u00a0b", "\u2003\u2009\u3000", "\u200b\u200d\ufeff", "0", "12", "123", "1234",
    "12345", "123456", "1234567", "12345678", "123456789012", " 1", "  1", "   12 345", "3.14159", "1,000,000",
    "-42", "1e10", "0x1F", "abc1234567", "1234567abc", "12345_678", "1234é", "1234²", "½1234½",
    "½123456½91234½", "２０２４５", "٣٤٥٦", "½ ² ① Ⅳ 五", "v1.2.3 10:30", "Hello, world!",
    "The capital of France is", "THE QUICK bRoWn FoX", "HelloWorld helloWORLDs HTTPServer's",
    "I'm you're he'll she'd we've it's can't 'tis", "I'M YOU'RE HE'LL SHE'D WE'VE IT'S CAN'T",
    "it\u2019s I\u2019M", "'\u017f 's 'S x'\u017fy", "don’t “quote” — dash… •", "''double'' `x` O'Brien's",
    "naïve café résumé Ångström Straße", "Ελληνικά ὠώ ΐ Ί", "Русский текст нещо", "Tiếng Việt Türkçe ığİI",
    "ǅ ʰʱ ª º", "你好，世界。再见！", "日本語のテキスト、カタカナ", "한국어 텍스트 ㄱㄴ", "中文abc中文123",
    "𠀀𠮷野家", "ㄅㄆㄇ ㄧㄨ", "สวัสดีครับ ๑๒๓", "ສະບາຍດີ", "កាន់តែ ពិសេស ១២៣៤", "မြန်မာ", "हिन्दी पाठ। ১২৩৪",
    "مرحبا، بالعالم۔ שלום", "\u202bRTL\u202c אב ab", "ا\u0644\u064e\u0651\u0647", "😀😀", "👩‍👩‍👧‍👦🏳️‍🌈",
    "👍🏽 🇫🇷🇩🇪 ❤️", "a😀b 1️⃣", "e\u0301 a\u0300\u0301\u0302x", "ﬁ ﬂ Å", "\0a\0",
    "\x01\x1b[31m\x1c\x1d\x1e\x1f", "\x7f\ufffd\ue000", "def f(x):\n    return x + 1\n",
    "for (int i = 0; i < n; ++i) { a[i] += b[i]; }\r\n", "<div class=\"a\">&amp;</div>",
    "{\"key\": [1, 2.5, null]}", "\treturn 0;\n}\n\n", "https://example.com/a/b?c=d&e=f#g", "C:\\Users\\x",
    "a_b_c __init__", "//\n/\n//x !/\n/", "==== ---- **** ....", "!!!???\n\n", " $100 €50 ≤ ∞ ∑ +=",
    "~~s~~ `c`|d| ^e", "- [x] item\n1. one", "a" * 50, "-" * 50, "0" * 50, "あ" * 20,
    "<|im_start|>user\nhi<|im_end|>", "</s><s> <unk>", "<sentinel:123>x", "IMGIMGABZ IMGIMGABCDEZ",
    "a b c d  e", "x (y|z).w, (", " (|. !",
    "Mixed: 中文 with English, العربية and 123 numbers — and emoji 🎉!\n\n* bullet\n* точка",
]  # fmt: skip


def description(steps: list[object]) -> str:
    """The JSON of "pre_tokenizer"."""
    made = [
        {"type": "Split", "pattern": {"Regex": s}, "behavior": "Isolated", "invert": False} if isinstance(s, str) else s
        for s in steps
    ]
    return json.dumps({"type": "Sequence", "pretokenizers": made})
