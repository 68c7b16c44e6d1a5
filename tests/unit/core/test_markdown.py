"""Whatever a person typed shows as text in Prefect's UI."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from bluesky_prefect.core import markdown_cell, markdown_literal, markdown_table, one_line
from bluesky_prefect.core._markdown import from_cell

# What links itself is looked for below: the package that would find it here is not a dependency.
READER = MarkdownIt("gfm-like", {"linkify": False, "html": True})
LINKS_ITSELF = re.compile(r"https?://|www\.|\w@\w|mailto:|xmpp:", re.IGNORECASE)
PLAIN = {"text", "text_special", "code_inline", "softbreak"}
PIECES = [
    "|", "`", "``", "\\", "<b>", "</td>", "<script>", "](", "![x](", "[x](javascript:y)", "http://a.b/", "www.a.b",
    "a@b.cd", "*", "_", "\n", "\r", "\n\n# ", "&lt;", "&#58;", "~~", "$$", ":::", "- ", "1. ", " ", "a", "\u202e",
]  # fmt: skip
HOSTILE = st.one_of(
    st.text(max_size=60),
    st.lists(
        st.sampled_from(PIECES),
        max_size=12,
    ).map("".join),
)  # fmt: skip


def parsed(text):
    """Return the tokens within each cell of the second column, as a page that speaks GitHub's Markdown sees them."""
    tokens = READER.parse(text)
    assert {token.type.rpartition("_")[0] for token in tokens if token.type != "inline"} <= {
        "table", "thead", "tbody", "tr", "th", "td",
    }, tokens  # fmt: skip
    return [token.children for token in tokens if token.type == "inline"]


@example(r"\|")
@example("x`|")
@example(r"`\`|")
@example("http://a.b/|`c")
@example("``` www.a.b")
@given(HOSTILE)
def test_a_cell_holds_the_text_and_nothing_else(typed):
    cells = parsed(markdown_table([("name", markdown_literal(typed)), ("next", "1")]))
    *_, value, following, one = cells
    assert [token.content for token in following if token.content] == ["next"]
    assert [token.content for token in one] == ["1"]
    assert {token.type for token in value} <= PLAIN, value
    assert not any(LINKS_ITSELF.search(token.content) for token in value if token.type != "code_inline")
    shown = "".join(token.content for token in value).strip()
    # A bar within code is written as an escape; GitHub's Markdown has no other way that all readers agree on.
    assert shown in {one_line(typed, 200).strip(), one_line(typed, 200).strip().replace("|", r"\u007c")}


@pytest.mark.parametrize("typed", ["", " ", "\n", "x" * 1000, {"a": "|"}, None, 1.5])
def test_anything_is_a_cell(typed):
    assert len(parsed(markdown_table([("name", markdown_literal(typed)), ("next", "1")]))) == 6


@given(HOSTILE)
def test_a_heading_and_a_line_hold_it_too(typed):
    tokens = READER.parse(f"# Scan {markdown_literal(typed)}: x\n\nIn {markdown_literal(typed)}:\n")
    inline = [token for token in tokens if token.type == "inline"]
    assert len(inline) == 2
    assert {child.type for token in inline for child in token.children} <= PLAIN


@pytest.mark.parametrize(
    "typed", ["det_intensity_1", "/data/2026/scan-1_a b.csv", "float64 [10, 20]", "2 of 3 points", "run: 5", "2.5e-3"]
)
def test_what_is_no_markup_is_the_same_in_a_cell_of_an_artifact(typed):
    assert markdown_cell(typed) == typed


@given(HOSTILE)
def test_what_a_cell_was_given_is_had_again(typed):
    line = one_line(typed, 4096).strip()
    assert from_cell(markdown_cell(typed)) == (line.replace("`", "\u02cb") if line.count("`") > 1 else line)
