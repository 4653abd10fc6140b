"""Compiled schemas, expressions, choices and grammars: what they allow, and what is refused."""

from __future__ import annotations

import gc
import json
import random
import re
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llguidance import LLMatcher

from pellucid import Model
from pellucid.errors import GrammarError
from pellucid.structure import LIMIT, Structure
from pellucid.text import gbnf, grammar
from pellucid.text.grammar import Grammars
from tests.structure.walks import END, Bytes, allowed, grammars, mask, of, suite, takes, validator, walk

G = grammars()
NAMED = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
CLOSED = {**NAMED, "additionalProperties": False}


def test_forced_tokens_mask_and_end() -> None:
    matcher = G.compile(of(CLOSED)).matcher()
    assert matcher.forced() == list(b'{"name":"') and not matcher.accepting
    matcher.advance(b'{"name":"x')
    assert not {END, 257, 258, 0, 10} & mask(matcher, G.words)  # no control character in a string
    assert {*b'" az\\\xc3'} <= mask(matcher, G.words)
    matcher.advance(b'"')
    assert matcher.forced() == list(b"}") and not matcher.complete
    matcher.advance(b"}")
    assert matcher.complete and matcher.accepting and matcher.forced() == []


def test_ends_only_where_the_text_may_end() -> None:
    number = G.compile(of({"type": "integer"}))
    assert END not in allowed(number) and END not in allowed(number, b"-") and END in allowed(number, b"-1")
    assert END not in allowed(number, b"-1", ends=False)
    once = G.compile(Structure("regex", "a?"))
    assert allowed(once) == {END, ord("a")} and allowed(once, ends=False) == {ord("a")}


def test_no_white_space() -> None:
    bound = G.compile(of({"type": "array", "items": {"type": "integer"}}))
    assert takes(bound, "[1,2]") and not takes(bound, "[1, 2]") and not takes(bound, " [1]")


@pytest.mark.parametrize("text", ["", "x-guidance"])
def test_a_schema_cannot_loosen_itself(text: str) -> None:
    loose = {"lenient": True, "whitespace_flexible": True, "item_separator": " , ", "coerce_one_of": True}
    schema = {"type": "array", "items": {"type": "integer"}, **({text: loose} if text else {})}
    assert not takes(G.compile(of(schema)), "[1, 2]") and not takes(G.compile(of(schema)), "[1 , 2]")
    with pytest.raises(GrammarError, match='the keyword "not" cannot be enforced') as raised:
        G.compile(of({"not": {}, **({text: loose} if text else {})}))
    assert raised.value.place == "schema.not"


@pytest.mark.parametrize(
    ("schema", "place", "words"),
    [
        ({"not": {}}, "schema.not", '"not"'),
        (
            {"properties": {"not": {"type": "string"}, "a": {"items": {"not": {}}}}},
            "schema.properties.a.items.not",
            '"not"',
        ),
        ({"anyOf": [{"if": {}, "then": {}}]}, "schema", '"if", "then"'),
        ({"type": "array", "uniqueItems": True}, "schema.uniqueItems", '"uniqueItems"'),
        ({"oneOf": [{"type": "string"}, {"type": "string", "minLength": 1}]}, "schema.oneOf", '"oneOf"'),
        ({"format": "regex", "type": "string"}, "schema.format", "format: regex"),
        ({"type": "frob"}, "schema", "frob"),
        ({"$ref": "https://example.com/schema.json"}, "schema", "https://example.com/schema.json"),
        ({"$ref": "file:///etc/passwd"}, "schema", "/etc/passwd"),
        ({"$ref": "#"}, "schema", "no text matches"),
        ({"enum": []}, "schema", "nsatisfiable"),
        (False, "schema", "no text matches"),
        ({"type": "string", "pattern": "(?=a)"}, "schema.pattern", "look-ahead"),
        ({"multipleOf": 30_001}, "schema.multipleOf", "30000"),
        ({"allOf": [{"multipleOf": 211}, {"multipleOf": 223.0}]}, "schema.allOf[0].multipleOf", "30000"),
        ({"type": "object", "properties": {str(i): {} for i in range(3000)}}, "schema", "too"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_name(schema: Any, place: str, words: str) -> None:
    with pytest.raises(GrammarError) as raised:
        G.compile(of(schema))
    assert raised.value.place == place and words in str(raised.value) and str(raised.value).startswith(place)


def test_leniently_a_keyword_is_ignored_and_named() -> None:
    bound = G.compile(of({"type": "string", "not": {"const": "a"}, "uniqueItems": True}, strict=False))
    assert bound.warnings == ('schema: "not", "uniqueItems" are ignored',) and takes(bound, '"a"')
    assert G.compile(of({"type": "string"}, strict=False)).warnings == ()
    with pytest.raises(GrammarError):
        G.compile(of({"type": "string", "not": {"const": "a"}}))


def test_whole_numbers_with_a_point_are_integers() -> None:
    bound = G.compile(of({"type": "string", "minLength": 2.0, "maxLength": 2.0}))
    assert takes(bound, '"ab"') and not takes(bound, '"a"')


@pytest.mark.parametrize(
    ("expression", "good", "bad"),
    [
        (r"\d{3}-[A-Z]+", ["123-A", "000-ZZ"], ["12-A", "123-a", "x123-A", ""]),
        ("^yes|no$", ["yes", "no"], ["nope", "ye"]),
        ("é+.", ["éx", "éé"], ["e", "é"]),
        ("", [""], ["a"]),
        ("a/b\\/c\n", ["a/b/c\n"], ["a/b"]),
        ("(?x) a # b /\n [/c]", ["a/", "ac"], ["a", "a\n"]),
        ("a\\\\\\\n", ["a\\\n"], ["a\n"]),
    ],
)
def test_expressions_match_the_whole_text(expression: str, good: list[str], bad: list[str]) -> None:
    bound = G.compile(Structure("regex", expression))
    assert [takes(bound, text) for text in good] == [True] * len(good)
    assert [takes(bound, text) for text in bad] == [False] * len(bad)


@pytest.mark.parametrize("expression", ["\\", "a\\", "\\\\\\"])
def test_an_expression_that_ends_within_an_escape(expression: str) -> None:
    with pytest.raises(GrammarError, match="^regex: not a regular expression: it ends within an escape"):
        G.compile(Structure("regex", expression))
    for key, value in (("pattern", expression), ("patternProperties", {expression: {}})):
        with pytest.raises(GrammarError, match="it ends within an escape") as raised:
            G.compile(of({key: value}))
        assert raised.value.place == f"schema.{key}"


def test_choices() -> None:
    texts = ["yes", "no", "not sure", 'a "b"\n\\', "é", "/x/", "<think>", "x" * 300]
    bound = G.compile(Structure("choice", json.dumps(texts)))
    assert all(takes(bound, text) for text in texts) and not takes(bound, "n") and not takes(bound, "yes ")
    assert END in allowed(bound, b"no") and ord("t") in allowed(bound, b"no")


@pytest.mark.parametrize(
    "text",
    ['start: "x" DIGITS ("," DIGITS)*\nDIGITS: /[0-9]+/\n', 'root ::= "x" digits ("," digits)*\ndigits ::= [0-9]+\n'],
    ids=["Lark", "GBNF"],
)
def test_grammars(text: str) -> None:
    bound = G.compile(Structure("grammar", text))
    assert takes(bound, "x1") and takes(bound, "x12,3") and not takes(bound, "x") and not takes(bound, "x1,")


@pytest.mark.parametrize(
    ("text", "good", "bad"),
    [
        (r'root ::= "\x41\u00e9\U0001F600\u0022"', ['Aé\U0001f600"'], ["A", r'\x41\u00e9\U0001F600"']),
        (r'root ::= "a\[\]\\" "\t\r\n\""', ['a[]\\\t\r\n"'], ["a[]"]),
        (r"root ::= [\u0061-\u0063\U000000E9]", ["a", "b", "c", "é"], ["d", "-", "u", "0"]),
        (r"root ::= [\]\[\\\x2f\"]", ["]", "[", "\\", "/", '"'], ["x", "2"]),
        ("root ::= [a&&b]", ["a", "b", "&"], ["c"]),
        ("root ::= [a~~b]", ["a", "b", "~"], ["c"]),
        ("root ::= [-az-]", ["-", "a", "z"], ["b"]),
        ("root ::= [+--]", ["+", ",", "-"], ["."]),
        ("root ::= [a^]", ["a", "^"], ["b"]),
        ("root ::= [^^a-c]", ["x", "-"], ["^", "b"]),
        ('root ::= a "[b]" # "\na ::= ["]\n', ['"[b]'], ["b"]),
        ('root ::= "start" start start-0\nstart ::= "x" | start-1\nstart-0 ::= "y"\nstart-1 ::= "z"\n',
         ["startxy", "startzy"], ["start"]),
        ('root ::= "a"{2,3} start{2}\nstart ::= "b"', ["aabb", "aaabb"], ["aab", "abb"]),
        # What follows decides where a text ends, although a longer one would fit.
        ('root ::= id "x"\nid ::= [a-z]+', ["abx", "xx"], ["x", "ab"]),
        ('root ::= "ab" | "a" "bc"', ["ab", "abc"], ["a", "abbc"]),
        ('root ::= [a-z]* "end"', ["end", "endend", "xend"], ["en", "endx"]),
        ('root ::= w root | "."\nw ::= "a" | "ab" | "bc"', [".", "abc.", "abbc.", "aab."], ["", "ac.", "ab"]),
        ('root ::= "(" root ")" | n "0"\nn ::= [0-9]+', ["(100)", "00"], ["0", "(11)"]),
        ('root ::= k w | "{" root "}"\nk ::= "in" | "i"\nw ::= "n"? "t"', ["int", "{it}", "innt"], ["in", "t"]),
        ('root ::= w (" " root)? | root "!"\nw ::= "a"{2} | "a"{2}{2} | "b"+?', ["aa aaaa!", "b!!", ""], ["a", "aaa"]),
        ('root ::= word | "[" root "]"\nword ::= letter+\nletter ::= [a-c] | "é"', ["[abé]", "c"], ["", "[]"]),
        ("root ::= .", ["a", "\n", "é"], ["", "ab"]),
        ('root ::= "a"{0} "b"{0,0} "c"**', ["", "cc"], ["a", "b"]),
        ('root ::= (("a"?)*)*', ["", "aa"], ["b"]),
        ('root ::= [é-ü] "" no ""{2} | [é-ü]\nno ::= "a"{0} | ""', ["é"], ["", "éé"]),  # llguidance panics at ""
        ('root ::= 1a A a\n1a ::= "x"\nA ::= "y"\na ::= "z"', ["xyz"], ["x", "xzy"]),
        ('root ::= "a"{ 1 , 2 }( # c "[\n | "b"\n)\r\n\r\n# d\nunused ::= root', ["a", "aab"], ["b", "aaa"]),
    ],
)  # fmt: skip
def test_gbnf_means_what_it_means_to_llama_server(text: str, good: list[str], bad: list[str]) -> None:
    bound = G.compile(Structure("grammar", text))
    assert [takes(bound, one) for one in good] == [True] * len(good)
    assert [takes(bound, one) for one in bad] == [False] * len(bad)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('root ::= "a"\n  "b"', "'\"b\"': expected a rule"),
        ('x ::= "a"', "the rule 'root' is not defined"),
        ("root ::= x\ny ::= z", "the rule '[xz]' is not defined"),
        ('root ::= ("a"', "a group has no end"),
        ('root ::= "a")', "a group ends that does not begin"),
        ("root ::= [z-a]", "a range ends before it begins"),
        ("root ::= []", "expected at least one character"),
        ('root ::= "a"{3,1}', "expected at least as many as 3"),
        ('root ::= "a"{,3}', "'{,3}': expected a text"),
        ("root ::= *", "'\\*': expected a text"),
        ('root ::= <think> "a"', "'<think> \"a\"': expected a text"),
        ('root ::= "a" x ::= "b"', "'x ::= \"b\"': expected a text"),
    ],
)
def test_errors_of_gbnf_say_what_was_expected(text: str, words: str) -> None:
    with pytest.raises(GrammarError, match=words) as raised:
        G.compile(Structure("grammar", text))
    assert raised.value.place == "grammar"


def test_lexemes_of_gbnf_are_long_if_what_follows_allows_it() -> None:
    """Long lexemes make masks fast: spelled as single characters, this string takes 20 times as long."""
    lark = gbnf.to_lark('root ::= "[" string ("," root)? "]"\nstring ::= "\\"" ([^"\\] | "\\" [nrt])* "\\""')
    assert "start: r0" in lark and " L1 " in lark
    assert " r1 " in gbnf.to_lark('root ::= "[" string "x" root? "]"\nstring ::= [a-z]+')


@pytest.mark.parametrize("escape", [r"\d", r"\-", r"\x4", r"\u12", r"\ud800", r"\U00110000"])
def test_escapes_that_gbnf_does_not_have(escape: str) -> None:
    for text in (f'root ::= "{escape}"', f"root ::= [{escape}]"):
        with pytest.raises(GrammarError, match="the escape .* is not a character") as raised:
            G.compile(Structure("grammar", text))
        assert raised.value.place == "grammar"


@pytest.mark.parametrize(
    "text",
    ["", "start", 'start: "a" b', "start: /(/", '{"grammars": [{"json_schema": {}}]}', "root ::= x", "root ::= [", "\0"]
    + ['start: %json {"not": {}}', 'start: %json {"multipl\\u0065Of": 1000003}', "start: @other", "%import python"],
)
def test_bad_grammars(text: str) -> None:
    with pytest.raises(GrammarError) as raised:
        G.compile(Structure("grammar", text))
    assert (raised.value.place or "").split(".")[0] == "grammar" and "\n" not in str(raised.value)


def test_what_makes_llguidance_panic_is_an_error_of_one_line() -> None:
    with pytest.raises(GrammarError, match=r"^regex: llguidance failed at it: [^<>]*$"):
        G.compile(Structure("regex", "[é-ü]()|[é-ü]"))


def test_calls_in_place_of_the_structure() -> None:
    calls = 'start: "<" NAME ">" | @content\nNAME: /[a-z]/\n'
    both = G.compile(Structure("schema", '{"enum": ["ab", "<c>"]}', calls=calls))
    assert takes(both, "<c>") and takes(both, '"ab"') and takes(both, '"<c>"')
    assert not takes(both, "<c") and not takes(both, "ab") and not takes(both, '<c>"ab"')


def test_a_vocabulary_without_an_end() -> None:
    class Endless(Bytes):
        eog = frozenset[int]()
        vocab_size = 256

    endless = Grammars(Endless(), 300)
    bound = endless.compile(Structure("regex", "ab*"))
    assert bound.matcher().forced() == [ord("a")]
    assert allowed(bound, b"a") == {ord("b")}  # nothing that the model does not have
    assert endless.words == 10


def test_bytes_that_no_text_has_are_never_allowed() -> None:
    assert not {0xFF, 0xC0, *range(256, 259)} & allowed(G.compile(Structure("regex", "(?s:.+)")), b"")


def test_compiled_grammars_are_kept_up_to_a_number() -> None:
    some = grammars()
    first = some.compile(Structure("regex", "a0"))
    assert some.compile(Structure("regex", "a0")) is first
    for i in range(1, grammar.KEPT):
        some.compile(Structure("regex", f"a{i}"))
    assert some.compile(Structure("regex", "a0")) is first  # used last
    some.compile(Structure("regex", "b"))
    assert some.compile(Structure("regex", "a0")) is first
    before = len(some._known)
    some.compile(Structure("regex", "a1"))  # was dropped
    assert len(some._known) == before == grammar.KEPT


def test_long_grammars_are_kept_up_to_a_length() -> None:
    some = grammars()
    long = [Structure("schema", json.dumps({"const": chr(97 + i) * (LIMIT - 100)})) for i in range(8)]
    for structure in long:
        kept = some.compile(structure)
        assert some.compile(structure) is kept
    assert 1 < len(some._known) < len(long)
    assert sum(len(one.text) for one in some._known) <= grammar.KEPT_TEXT
    assert next(reversed(some._known)) == long[-1]


def test_matchers_of_one_grammar_are_apart() -> None:
    bound = G.compile(of(CLOSED))
    one, other = bound.matcher(), bound.matcher()
    one.advance(b'{"name":"')
    assert other.forced() == list(b'{"name":"')
    with pytest.raises(GrammarError):
        other.advance(b"x")
    assert ord("x") in mask(one, G.words)


# The keywords that are not kept: a later llguidance shows here what it has more, or less.
NOT_KEPT = {
    *("not", "if", "then", "else", "oneOf", "contains", "minContains", "maxContains", "uniqueItems", "propertyNames"),
    *("dependencies", "dependentRequired", "dependentSchemas", "unevaluatedItems", "unevaluatedProperties"),
    *("$dynamicRef", "$dynamicAnchor"),
}


def test_the_suite_of_json_schemas() -> None:
    """Every text of a schema that is kept validates; all others are refused, by what they need."""
    kept = refused = ended = 0
    needed: set[str] = set()
    for name, schema in suite():
        try:
            bound = G.compile(of(schema))
        except GrammarError as error:
            refused += 1
            assert error.place is not None and error.place.startswith("schema") and error.message, name
            if "cannot be enforced" in error.message:
                needed.update(re.findall(r'"([^"]+)"', error.message))
            continue
        kept += 1
        check = validator(schema)
        for seed in range(2):
            text = walk(bound, seed)
            if text is not None:
                ended += 1
                assert not list(check.iter_errors(json.loads(text))), (name, text)
    assert needed == NOT_KEPT
    assert kept >= 320 and refused <= 302 and ended >= 1.9 * kept


def test_limits_of_size() -> None:
    with pytest.raises(GrammarError, match="too"):
        G.compile(Structure("grammar", "start: " + "a? " * (LIMIT // 3 - 20) + '\na: "x" | "y"\n'))


def test_multiples_are_checked_by_their_digits() -> None:
    check = validator({"multipleOf": 0.0001})
    assert check.is_valid(9.4035) and check.is_valid("a") and not check.is_valid(9.40355)


@pytest.mark.parametrize(
    "expression",
    [
        "[a-z ]{60}",
        "[A-Za-z0-9 ,.]{5,40}",
        "([a-z]{1,9} ){20}",
        r"(\w+\s){9}",
        "[a-z ]*",
        '"[^"]{1,30}"',
        "(the |a ){30}",
    ],
)
def test_classes_of_letters_change_no_mask(smol: Model, expression: str) -> None:
    """They are a short cut to what a look at each token finds, however few may still follow."""
    grammars = smol.core.need_tokenizer().grammars(smol.core.engine.vocab)
    source = grammars.source(Structure("regex", expression))
    plain = grammars.vocabulary.with_slices([])
    one, other = (LLMatcher(vocabulary, source, log_level=0) for vocabulary in (grammars.vocabulary, plain))
    rng = random.Random(expression)
    for _ in range(70):
        masks = [np.frombuffer(matcher.compute_bitmask(), np.uint8) for matcher in (one, other)]
        assert np.array_equal(masks[0], masks[1])
        allowed = np.flatnonzero(np.unpackbits(masks[0], bitorder="little"))
        token = int(allowed[rng.randrange(len(allowed))])
        if token in grammars.ends:
            break
        assert one.consume_token(token) and other.consume_token(token)
        if one.is_stopped():
            break


BIG = 2**53 + 1


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"const": BIG}, "const"),
        ({"const": -BIG}, "const"),
        ({"enum": ["a", BIG]}, "enum"),
        ({"const": [{"a": [BIG]}]}, "const"),
        ({"properties": {"a": {"enum": [{"b": 10**400}]}}}, "properties.a.enum"),
        ({"type": "integer", "minimum": BIG}, "minimum"),
        ({"type": "integer", "maximum": BIG}, "maximum"),
        ({"type": "number", "maximum": 2.0**60}, "maximum"),
        ({"items": {"type": "integer", "exclusiveMinimum": -BIG}}, "items.exclusiveMinimum"),
        ({"$defs": {"a": {"type": "integer", "exclusiveMaximum": 2**62}}}, "$defs.a.exclusiveMaximum"),
    ],
)
def test_integers_beyond_doubles_are_refused(schema: Any, place: str, strict: bool) -> None:
    with pytest.raises(GrammarError, match=r"expected integers from -2\*\*53") as raised:
        G.compile(Structure("schema", json.dumps(schema), strict))
    assert raised.value.place == f"schema.{place}"
    with pytest.raises(GrammarError) as raised:
        G.compile(Structure("grammar", f"start: %json {json.dumps(schema)}\n"))
    assert raised.value.place == f"grammar.{place}"


def test_integers_that_doubles_hold() -> None:
    assert takes(G.compile(of({"const": 2**53})), str(2**53))
    assert not takes(G.compile(of({"type": "integer", "maximum": 2**53})), str(BIG))
    for most in (2**63 - 1, 2**64 - 1):  # of programs with integers of 64 bits
        bound = G.compile(of({"type": "integer", "minimum": 0, "maximum": most}))
        assert takes(bound, str(2**63 - 1)) and not takes(bound, str(most + 1))
    for least in (-(2**63), -1e300):
        bound = G.compile(of({"type": "integer", "minimum": least, "maximum": 2**63 - 1}))
        assert takes(bound, str(-(2**63) + 1024)) and not takes(bound, str(-(2**63) - 1)) and takes(bound, "17")
        bound = G.compile(of({"minimum": least, "exclusiveMaximum": 1e300}))
        assert takes(bound, "-1.5") and not takes(bound, str(-(2**63) - 1)) and not takes(bound, str(2**63))
    for wrong in ({"minimum": 2**63}, {"exclusiveMaximum": -1e300}, {"minimum": -(2**63) + 2}):
        with pytest.raises(GrammarError, match=r"expected integers from -2\*\*53"):
            G.compile(of(wrong))
    named = G.compile(of({"properties": {"const": {"type": "integer", "default": BIG}}}))
    assert takes(named, f'{{"const":{BIG}}}')


@pytest.mark.parametrize(
    "form, least, most", [("int8", -128, 127), ("uint16", 0, 65535), ("int32", -(2**31), 2**31 - 1)]
)
def test_formats_of_integers_are_bounds(form: str, least: int, most: int) -> None:
    bound = G.compile(of({"type": ["integer", "null"], "format": form}))
    assert all(takes(bound, str(one)) for one in (least, 0, most, "null"))
    assert not takes(bound, str(least - 1)) and not takes(bound, str(most + 1))
    bound = G.compile(of({"type": ["integer", "string"], "format": form, "minimum": 5, "maximum": 2**40}))
    assert takes(bound, "5") and takes(bound, str(most)) and not takes(bound, "4") and not takes(bound, str(most + 1))
    others: list[Any] = [[], {}, 3, "odd"]  # which say nothing of integers
    for other in others:
        assert takes(G.compile(of({"type": "integer", "format": other})), str(most + 1))


@pytest.mark.parametrize(
    "nothing",
    [
        {"uniqueItems": False},
        {"not": False},
        {"propertyNames": {}},
        {"unevaluatedProperties": True, "unevaluatedItems": {}},
        {"dependentRequired": {}, "dependentSchemas": {}, "dependencies": {}},
        {"if": {"type": "string"}},
        {"then": False, "else": False},
        {"minContains": 2, "maxContains": 3},
    ],
)
def test_keywords_that_ask_nothing_are_taken(nothing: dict[str, Any]) -> None:
    bound = G.compile(of({"type": "array", "items": {"type": "integer", **nothing}, **nothing}))
    assert takes(bound, "[1,1]") and not takes(bound, '["a"]')
    with pytest.raises(GrammarError, match="cannot be enforced"):
        G.compile(of({"items": {"uniqueItems": True}}))


def test_what_references_lead_through_is_kept() -> None:
    for name in ("then", "if", "not", "uniqueItems"):
        schema = {"components": {"schemas": {name: {"type": "integer"}}}, "$ref": f"#/components/schemas/{name}"}
        bound = G.compile(of(schema))
        assert takes(bound, "7") and not takes(bound, '"a"')


def test_schemas_within_grammars_are_settled_too() -> None:
    schema = {"type": "integer", "format": "int8", "uniqueItems": False, "minimum": -(2**63)}
    for text in (f"start: %json {json.dumps(schema)}\n", f'start: "" "" %json{json.dumps(schema)} | "%json {{"\n'):
        bound = G.compile(Structure("grammar", text))
        assert takes(bound, "127") and takes(bound, "-128") and not takes(bound, "300")


def test_a_model_is_closed_while_a_grammar_is_looked_up(smollm2: Path) -> None:
    """By the handler of a signal, in the same thread."""
    model = Model.load(smollm2, threads=1, context=256)
    model.generate("Hi", regex="a|b", max_tokens=1)
    ends = threading.Thread(target=model.close, daemon=True)
    with grammar._locks.table:
        ends.start()
        ends.join(30)
        assert not ends.is_alive()


def test_what_llguidance_keeps_ends_with_the_model(smollm2: Path) -> None:
    """It is native: the search for cycles does not look into it. After `close` there is none to look for."""
    for closed in (True, False):
        model = Model.load(smollm2, threads=1, context=256)
        model.generate("Hi", schema={"type": "array", "items": {"enum": ["a", "b"]}}, max_tokens=4)
        kept = weakref.ref(model.core.need_tokenizer().grammars(model.core.engine.vocab).spelling)
        gc.collect()
        gc.disable()
        try:
            if closed:
                model.close()
            del model
            assert kept() is None or not closed
        finally:
            gc.enable()
        gc.collect()
        assert kept() is None
