from __future__ import annotations

import time

import pytest
from native_grammar import run_natively

from runtime_stub.engine.grammar import check, choice, parse, quote, quote_class
from runtime_stub.engine.matcher import Matcher
from runtime_stub.engine.schema import JSON_OBJECT
from runtime_stub.errors import PromptError


def matches(grammar: str, text: str) -> bool:
    matcher = Matcher(parse(grammar))
    return matcher.accept(text) and matcher.complete


SOUND = [
    ('root ::= "a"', ["a"], ["", "b", "aa"]),
    ('root ::= ""', [""], ["a"]),
    ('root ::= [a-c]+ "-"?', ["abc", "c-"], ["-", "d"]),
    (r"root ::= [^\"\\a-z]*", ["A1", ""], ["a", '"', "\\"]),
    (r'root ::= "\x41\u00e9\U0001F600\t\r\n\\\"\[\]\-"', ['Aé😀\t\r\n\\"[]-'], ["A"]),
    ("root ::= [a-] [-a] [z-a^]", ["--^", "aa^"], ["b-^", "--z"]),
    ('root ::= "a"{2} "b"{1,} "c"{0,2} "d" { 1 , 2 }', ["aabd", "aabbccdd"], ["abd", "aabcccd"]),
    ('root ::= "ab"{2}', ["abab"], ["abb"]),
    ('root ::= "a"{0} "b"', ["b"], ["ab"]),
    ('root ::= "a"{2}{3}', ["aaaaaa"], ["aaaaa"]),
    ("root ::= . .", ["é\n"], ["a"]),
    ('# c\n\nroot ::= x-1 | # d\n "b"\nx-1 ::= (\n"a"\n|\n"c" # e\n)+\r\n', ["ac", "b"], ["ab"]),
    ('root ::= "(" root ")" | ""', ["(())", ""], ["(()"]),
    ('root ::= item tail\ntail ::= | "," item tail\nitem ::= [0-9]+', ["1,23"], ["1,"]),
    ("root::=a\na::=b|b\nb::=[x]", ["x"], ["xx"]),
    (JSON_OBJECT, ['{"a": [1, -2.5e3, null, {}]}', "{}"], ["[]", "{} ", '{"a"}', '{"a":01}']),
]


@pytest.mark.parametrize(("text", "fitting", "other"), SOUND)
def test_sound_grammars(text: str, fitting: list[str], other: list[str]) -> None:
    assert check(text) is text
    assert [t for t in fitting if not matches(text, t)] == []
    assert [t for t in other if matches(text, t)] == []


TOKENS = [
    "root ::= <[42]> .*",
    "root ::= <|im_start|> (!<|im_end|>)* <|im_end|> .*",
    "root ::= (<[1]> | !<[2]>){3}",
]


@pytest.mark.parametrize("text", TOKENS)
def test_token_references(text: str) -> None:
    assert check(text) is text


def chain(count: int, body: str) -> str:
    rules = "".join(f"r{n} ::= {body.replace('@', f'r{n + 1}')}\n" for n in range(count))
    return f'root ::= r0\n{rules}r{count} ::= "x"'


UNSOUND = [
    ("", 'no rule named "root"'),
    (" \n# only this", 'no rule named "root"'),
    ('x ::= "a"', 'no rule named "root"'),
    ("root ::= b", 'no rule named "b" .*line 1, column 10'),
    ('root = "a"', '"::=" is missing'),
    ("root ::= 'a'", "should end here"),
    ('root ::= "a"\n | "b"', "name of a rule is missing .*line 2, column 2"),
    ('root ::= "a', "does not end"),
    ("root ::= [a", "does not end"),
    ("root ::= [a\\", "escape"),
    (r'root ::= "\q"', "escape .*column 11"),
    (r'root ::= "\u12"', "escape"),
    ('root ::= ("a"', r'"\)" is missing'),
    ('root ::= "a")', "should end here"),
    ("root ::= *", "nothing to repeat"),
    ('root ::= ""+', "nothing to repeat"),
    ('root ::= "a"{0}{2}', "nothing to repeat"),
    ('root ::= "a"{,3}', "number of repetitions is missing"),
    ('root ::= "a"{1;2}', '"}" is missing'),
    ("root ::= <[x]>", "token such as"),
    ("root ::= !a", "token such as"),
    ("root ::= <[99999999999]>", "no such token"),
    ('root ::= "a"\nroot ::= "b"', "defined twice"),
    ("root ::= []", "class is empty"),
    # These abort or stall llama.cpp.
    ('root ::= "a" dead\ndead ::= [^\\x00-\\U0010FFFF]', 'matches nothing .*"dead", line 2'),
    (r"root ::= [\uD800-\uDFFF]", "matches nothing"),
    (r"root ::= [z-a]", "matches nothing"),
    (r'root ::= "\x00"', "can't occur in text"),
    (r'root ::= "\UFFFFFFFF"', "can't occur in text"),
    ("root ::= " + "(" * 20_000 + '"a"' + ")" * 20_000, "nest deeper"),
    ('root ::= root "a" | "b"', "can begin with itself"),
    ('root ::= a\na ::= b\nb ::= "" a "x" | "y"', 'can begin with itself .*"a"'),
    ('root ::= x root "y" | "z"\nx ::= y y\ny ::= "q" |', "can begin with itself"),
    ('root ::= ("a"*)*', "can begin with itself"),
    ('root ::= "a"{1000000}', "more than 2,000 repetitions"),
    ('root ::= "a"{0,2001}', "more than 2,000 repetitions"),
    ('root ::= "a"{' + "9" * 50_000 + "}", "more than 2,000 repetitions"),
    ('root ::= "a"{3,1}', "wrong way round"),
    ('root ::= "a"{50}{50}', "too large to be repeated"),
    ('root ::= ("a"{0,50}){50}', "too large to be repeated"),
    ('root ::= "' + "x" * 60_000 + '"{2000}', "250,000 elements"),
    ('root ::= "a"' + ' | "b"{0,2000}' * 11, "20,000 rules"),
    ("\n".join(f'r{n} ::= "{"a" * 20}"{{0,2000}}' for n in range(9)), "250,000 elements"),
    (chain(40, "@ | @"), "2,000 ways"),
    (chain(40, '@ "x" | @ "y"'), "2,000 ways"),
    (chain(3000, "@"), "chain of more than 500"),
    ("root ::= " + " | ".join(f'"{n}"' for n in range(3000)), "2,000 ways"),
    ('root ::= "-" root "x" | "-" root "y" | "z"', "too many ways"),
    ('root ::= "<" x{30} ">"\nx ::= "a" | "b" | [a-z]', "too many ways"),
    ("root ::= [^b]? r\nr ::= s?? . r [^a]\ns ::= [^a] r", "too many ways"),
    ("root ::= ([a-z]+)+", "too many ways"),
    ('root ::= "a" !<[5]>', "token follows a character"),
    ('root ::= a b\na ::= ("x" | <[1]>) c\nb ::= c <[2]>\nc ::= <[3]>?', "token follows"),
    ('root ::= "a"\0', "zero byte"),
    ('root ::= "\ud800"', "not valid Unicode"),
    ('root ::= "' + "é" * 40_000 + '"', "longer than 65,536 bytes"),
]


@pytest.mark.parametrize(("text", "message"), UNSOUND)
def test_unsound_grammars(text: str, message: str) -> None:
    started = time.process_time()
    with pytest.raises(PromptError, match=message):
        check(text)
    assert time.process_time() - started < 2


def test_large_sound_grammar_is_checked_in_time() -> None:
    rules = (f"r{n} ::= [a-z] [0-9]? r{n + 1}\n" for n in range(2000))
    text = "root ::= r0\n" + "".join(rules) + 'r2000 ::= ""'
    started = time.process_time()
    check(text)
    assert time.process_time() - started < 2


def test_quoting() -> None:
    awkward = 'a"\\\n\x00\x7f]^-é😀'.replace("\x00", "")
    assert matches(f"root ::= {quote(awkward)}", awkward)
    for character in awkward:
        code = ord(character)
        assert matches(f"root ::= {quote_class([(code, code)])}", character)
    assert matches(f"root ::= {choice([quote('a'), quote('b')])} {choice(['[c]'])}", "bc")


def test_matcher_counts_readings() -> None:
    matcher = Matcher(parse('root ::= "a" x* x*\nx ::= "a" "b"?'))
    assert matcher.readings == 1
    assert matcher.accept("a")
    assert (matcher.readings, matcher.complete) == (3, True)
    assert matcher.accept("a")
    assert matcher.readings == 5
    assert not matcher.accept("a", most=4)


def test_sound_grammars_run_natively() -> None:
    grammars = [text for text, _, _ in SOUND] + TOKENS
    lines = run_natively(grammars, steps=10)
    assert len(lines) == len(grammars)
    assert "refused" not in lines
    assert [line for line in lines if line.startswith("dead")] == []


def test_llama_cpp_still_aborts_where_it_did() -> None:
    """Why the check is there. When this fails, a reason to refuse something has gone."""
    assert run_natively(['root ::= "a"', 'root ::= "a" !<[5]>'], steps=10)[1:] == []
