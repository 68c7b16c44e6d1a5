"""Markdown in which text that anybody may have typed stays text."""

import re
from collections.abc import Iterable
from typing import Any

from bluesky_prefect.texts import one_line

_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")
# What GitHub's flavour of Markdown, which Prefect's pages speak, makes a link of wherever it stands.
_LINKS_ITSELF = re.compile(r"://|www\.|@|mailto:|xmpp:", re.IGNORECASE)


def literal(value: Any, most: int = 200) -> str:
    """Return a value as Markdown that shows it as it is, in one line, whatever it holds; also in a table's cell.

    Parameters
    ----------
    value : object
        Strings are taken as they are, anything else as JSON.
    most : int
        Characters after which it is cut.
    """
    text = one_line(value, most).strip()
    return _code(text) if _LINKS_ITSELF.search(text) else _PUNCTUATION.sub(r"\\\1", text)


def table(rows: Iterable[tuple[str, str]]) -> str:
    """Return a table of names and values, which are Markdown already."""
    return "\n".join(["| | |", "|:--|:--|", *(f"| {name} | {value} |" for name, value in rows)])


def _code(text: str) -> str:
    """Return text as code, where nothing is a link; only a bar would end a cell all the same."""
    text = text.replace("|", r"\u007c")
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}"
