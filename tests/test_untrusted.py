"""What strangers wrote: bounded, and shown without what a terminal would obey."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unsee.errors import UnseeError
from unsee.untrusted import DEPTH, parse_json, read_bytes, read_json, read_yaml, shown

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES)
def test_reads_json_as_python_does(value):
    assert parse_json(json.dumps(value)) == value


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 5000 + "1" + "}" * 5000, "1" * 5000, "nul", "\x00", ""])
def test_json_that_is_none_is_a_value_error(text):
    with pytest.raises(ValueError):
        parse_json(text)


def test_brackets_within_strings_do_not_count():
    assert parse_json(json.dumps(["[" * 10 * DEPTH, '\\"[' * DEPTH]))[0] == "[" * 10 * DEPTH


def test_refuses_what_is_no_regular_file_and_what_is_too_large(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b"1" * 11)
    for name, why in (("pipe", "regular"), ("gone", "No such"), ("large", "larger"), ("a\0b", "null")):
        with pytest.raises(UnseeError, match=why):
            read_bytes(tmp_path / name, 10)
    (tmp_path / "bad.json").write_bytes(b"\xff")
    with pytest.raises(UnseeError, match="not JSON"):
        read_json(tmp_path / "bad.json")


def test_yaml_is_plain_values(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("steps: 3\nnames: [a, b]\n")
    assert read_yaml(file) == {"steps": 3, "names": ["a", "b"]}
    for text in ("a: &x [1]\nb: *x\n", "!!python/object/apply:os.system [id]", "[" * 1000, "a: [", "\x00"):
        file.write_text(text)
        with pytest.raises(UnseeError, match="not YAML"):
            read_yaml(file)


def test_shows_every_script_and_escapes_what_a_terminal_obeys():
    for name in ("山田 太郎", "می\u200cخواهم", "👩\u200d🔬", "a\u00a0b", "\U0001fae9", "naïve"):
        assert shown(name) == name
    assert shown("a\x1b[2Jb\nc\u202ed\udcff") == "a\\x1b[2Jb\\nc\\u202ed\\udcff"
