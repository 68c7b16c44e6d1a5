"""Text that somebody else wrote, made safe to show on one line."""

import json
import math
import unicodedata
from typing import Any, TypeGuard

# Control and format characters (bidirectional overrides among them) and the line separators of Unicode.
_UNSAFE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def one_line(value: Any, most: int = 500) -> str:
    """Return a value as text without anything that could break or forge a line.

    Parameters
    ----------
    value : object
        Strings are taken as they are, anything else as JSON.
    most : int
        Characters after which the text is cut; what is cut off is counted.

    Returns
    -------
    str
        Printable text without line breaks.
    """
    text = value if isinstance(value, str) else as_json(value)
    cut = "" if len(text) <= most else f" ... ({len(text)} characters in all)"
    return "".join(map(_escaped, text[:most])) + cut


def as_json(value: Any) -> str:
    """Return a value as JSON on one line, with the ``repr`` of whatever JSON cannot hold."""
    return json.dumps(value, ensure_ascii=False, default=repr)


def is_number(value: Any) -> TypeGuard[int | float]:
    """Say whether a value is a finite number (a boolean is none)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _escaped(character: str) -> str:
    if unicodedata.category(character) not in _UNSAFE:
        return character
    short = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(character)
    return short or (f"\\u{ord(character):04x}" if ord(character) < 0x10000 else f"\\U{ord(character):08x}")
