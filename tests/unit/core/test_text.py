"""Text of others cannot forge lines."""

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from bluesky_prefect.core import error_and_place, error_line, is_number, one_line


@given(st.text())
def test_any_text_stays_on_one_line(text):
    line = one_line(text)
    assert len(line.splitlines()) <= 1
    assert not {unicodedata.category(character) for character in line} & {"Cc", "Cf", "Zl", "Zp"}


def test_line_breaks_show_as_escapes():
    assert one_line("a\nexit status: success\u2028\u202e") == r"a\nexit status: success\u2028\u202e"


def test_long_text_is_cut_and_says_so():
    assert one_line("y" * 1_000_000, 10) == "yyyyyyyyyy ... (1000000 characters in all)"


def test_anything_can_be_shown():
    assert one_line({"a": [1, None], "b": {1, 2}.__class__}) == """{"a": [1, null], "b": "<class 'set'>"}"""


def test_only_finite_numbers_are_numbers():
    assert [is_number(value) for value in (1, 1.5, True, float("nan"), float("inf"), "1", None)] == [
        True, True, False, False, False, False, False,
    ]  # fmt: skip


class Unreadable(Exception):
    def __str__(self):
        raise RuntimeError("no message")


@given(st.text())
def test_an_error_is_told_on_one_line_whatever_its_message(message):
    assert error_line(ValueError(message)) == (f"ValueError: {one_line(message)}" if message else "ValueError")


def test_an_error_whose_message_cannot_be_read_is_told_all_the_same():
    assert error_line(Unreadable()) == "Unreadable: its message cannot be read"


def failing(depth):
    if depth:
        failing(depth - 1)
    raise ValueError("x\nERROR forged")


def test_an_error_is_told_with_its_place_innermost_first():
    try:
        failing(100)
    except ValueError as error:
        told = error_and_place(error)
    assert told.startswith(r"ValueError: x\nERROR forged (at test_text.py:")
    assert told.count(" in failing") == 8
