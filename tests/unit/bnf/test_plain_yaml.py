"""YAML is read as its writer means it: nothing is lost, and no text becomes a number, switch or date that not everybody sees in it."""

import math

import pytest
import yaml

from bnf.plain_yaml import dump, read, read_setting


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("5E-1", 0.5),
        ("2.5e+3", 2500.0),
        (".5", 0.5),
        ("1e3", 1000),
        ("-0", 0),
        ("2_048", 2048),
        ("1_000_000", 1000000),
        ("0x1F", 31),
        ("0o17", 15),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        # No two readers agree on these, or everybody reads text.
        ("010", "010"),
        ("20:48", "20:48"),
        ("2026-11-28", "2026-11-28"),
        ("2026_11_28", "2026_11_28"),
        ("1_0", "1_0"),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("off", "off"),
        ("nan", "nan"),
        ("2,048", "2,048"),
        ("=", "="),
        ("<<", "<<"),
        ("'5'", "5"),
        ("!!str 5", "5"),
        ("!!float 5", 5.0),
    ],
)
def test_a_scalar_is_what_everybody_reads(text, value):
    assert read(f"key: {text}", "r.yaml") == {"key": value} and type(read(f"key: {text}", "r.yaml")["key"]) is type(value)
    assert read_setting("key", text) == value


def test_what_is_no_number_is_read_as_such_and_left_to_the_keys_rule():
    assert math.isnan(read_setting("k", ".nan")) and read_setting("k", "-.inf") == -math.inf == -read_setting("k", "1e400")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nseed: 2", r"seed must be given once, got it in the lines 1 and 2 of r\.yaml; remove one"),
        ("train:\n  a: 1\n  b: 2\n  'a': 3", r"train\.a must be given once, got it in the lines 2 and 4"),
        ("data:\n- path: x\n  path: y", r"data\.0\.path must be given once, got it in the lines 2 and 3"),
        ("x: {deep: {a: 1, a: 2}}", r"x\.deep\.a must be given once, got it in the lines 1 and 1"),
        ("a: &a {k: 1}\nb: {<<: *a, <<: *a}", r"b\.<< must be given once.*make a list of both"),
        ("benchmarks: {7: {}}", r"benchmarks\.7 must be a key of text, got the int 7 as a key in line 1 of r\.yaml; put it in"),
        ("{true: 1}", r"true must be a key of text, got the bool"),
        ("null: 1", r"null must be a key of text, got the null"),
        ("? [a, b]\n: 1", "must be a key of text, got the seq"),
        ("a: &a\n  b: *a", r"a\.b must not be part of itself"),
        ("a: 1\n---\nb: 2", r"r\.yaml must hold one document, got another from line 2"),
        ("a:\n\tb: 1", r"r\.yaml must be YAML, got a tab in line 2, column 1; indent with blanks"),
        ('path: "C:\\data"', r"unknown escape character 'd' in line 1, column \d+; write '\\' in single quotes, or twice"),
        ("a: [", r"r\.yaml must be YAML, got .* in line 1"),
        ("a: !!int abc", r"must be YAML, got 'abc' where !!int stands before it in line 1"),
        ("a: !!set {b}", r"must be YAML, got the tag !!set in line 1"),
        ("a: !!python/object/apply:os.getcwd []", r"must be YAML, got the tag !!python/object/apply:os\.getcwd"),
        ("a: *b", "undefined alias 'b' in line 1"),
        ("<<: 5", "must be YAML, got .*merging"),
        ("[" * 5000, "must be YAML of a few levels"),
        (b"a: \xff", "must be YAML in UTF-8, got invalid start byte at byte 3"),
    ],
)
def test_what_would_be_lost_or_guessed_is_refused_with_its_place(text, message):
    with pytest.raises(ValueError, match=message):
        read(text, "r.yaml")


def test_every_mistake_is_named_at_once():
    with pytest.raises(ValueError) as error:
        read("a: 1\na: 2\nb: {3: x}", "r.yaml")
    assert [line.split(" ")[0] for line in str(error.value).splitlines()] == ["a", "b.3"]


def test_anchors_and_merges_work_and_a_key_beside_a_merge_wins():
    text = "base: &base {lr: 1e-5, steps: 3}\nsame: *base\nmine: {<<: *base, steps: 4}\nboth: {<<: [*base, {z: 1}]}"
    base = {"lr": 1e-5, "steps": 3}
    assert read(text, "r") == {"base": base, "same": base, "mine": base | {"steps": 4}, "both": base | {"z": 1}}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_no_part_of_the_first_key(encoding):
    assert read("größe: 1\n".encode(encoding), "r") == {"größe": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a #b", "key must be a whole value, got 'a #b', of which '#b' is a comment; put it in quotes"),
        ("#b", "key must have a value, got the comment '#b'"),
        ("{a: 1, a: 2}", r"key\.a must be given once, got it twice"),
        ("{1: 2}", r"key\.1 must be a key of text"),
        ("x: [", "key must have a YAML value, got"),
    ],
)
def test_a_setting_on_the_command_line_is_read_the_same_way(text, message):
    with pytest.raises(ValueError, match=message):
        read_setting("key", text)
    assert read_setting("key", "a#b") == "a#b" and read_setting("key", "'a #b'") == "a #b"


def test_what_is_written_reads_the_same_in_both_versions_of_yaml():
    texts = [
        "1e-5",
        "1e3",
        "yes",
        "no",
        "2_048",
        "010",
        "0o17",
        "20:48",
        "2026-11-28",
        "~",
        "null",
        "",
        "true",
        "1.5",
        "<<",
        "=",
        "# x",
    ]
    value = {
        "texts": texts,
        "numbers": [1, -2, 1e-5, 0.1, 1e22, 1e16],
        "rest": [None, True, {}],
        "1": "one",
        "no": "key",
        "ä": "ö",
    }
    assert read(dump(value), "r") == value == yaml.safe_load(dump(value))
