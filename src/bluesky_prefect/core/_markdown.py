"""Markdown in which text that anybody may have typed stays text."""

import re
from collections.abc import Iterable
from typing import Any

from bluesky_prefect.core._text import one_line

# Within a word a hyphen is none; one of Prefect's pages shows the escape of it in links.
_PUNCTUATION = re.compile(r"((?!(?<=[^\W_])-[^\W_])[!-/:-@\[-`{-~])")
# What GitHub's flavour of Markdown, which Prefect's pages speak, makes a link of wherever it stands.
_LINKS_ITSELF = re.compile(r"://|www\.|@|mailto:|xmpp:", re.IGNORECASE)
# A space without width, as the browser sees it: Markdown next to it is none.
_NOTHING = "\ufeff"
# Emphasis (within a word, an underscore is none), tags, entities, escapes, links, addresses.
_MARKUP = re.compile(r"[*~<&\\@]|(?<![^\W_])_|_(?![^\W_])|\](?=[(\[:])|:(?=//)|(?<=www)\.|(?<=ftp)\.", re.IGNORECASE)
# Headings, lists, quotes, rules.
_BLOCK = re.compile(r"#|>|\||[-+](?:\s|-|$)|\d+[.)](?:\s|$)")


def markdown_literal(value: Any, most: int = 200) -> str:
    """Return a value as Markdown that shows it as it is, in one line, whatever it holds; also in a table's cell.

    Strings are taken as they are, anything else as JSON; it is cut after `most` characters.
    """
    text = one_line(value, most).strip()
    return _code(text) if _LINKS_ITSELF.search(text) else _PUNCTUATION.sub(r"\\\1", text)


def markdown_cell(text: str, most: int = 4096) -> str:
    """Return a text for a cell of a table artifact, which one of Prefect's UIs takes for Markdown, the other for text.

    Both show it as it is, in one line, without links and pictures. What is no markup stays what it is; the rest gets
    characters that nobody sees, which `from_cell` takes out again. It is cut after `most` characters.
    """
    line = one_line(text, most).strip()
    if line.count("`") > 1:
        line = line.replace("`", "\u02cb")  # nothing keeps two of them from making code of what is between
    broken = _MARKUP.sub(rf"{_NOTHING}\g<0>{_NOTHING}", line)
    return _NOTHING + broken if _BLOCK.match(line) else broken


def from_cell(text: str) -> str:
    """Return the text that `markdown_cell` was given."""
    return text.replace(_NOTHING, "")


def markdown_table(rows: Iterable[tuple[str, str]]) -> str:
    """Return a table of names and values, which are Markdown already."""
    return "\n".join(["| | |", "|:--|:--|", *(f"| {name} | {value} |" for name, value in rows)])


def _code(text: str) -> str:
    """Return text as code, where nothing is a link; only a bar would end a cell all the same."""
    text = text.replace("|", r"\u007c")
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}"
