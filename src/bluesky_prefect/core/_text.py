"""Text that somebody else wrote, made safe to show on one line."""

import json
import math
import traceback
import unicodedata
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import PurePath
from typing import Any, TypeGuard

_MAX_CALLS = 8
_NAME_LENGTH = 60
# Control and format characters (bidirectional overrides among them) and the line separators of Unicode.
_UNSAFE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def one_line(value: Any, most: int = 500) -> str:
    """Return a value as printable text without anything that could break or forge a line.

    Strings are taken as they are, anything else as JSON. What is cut off after `most` characters is counted.
    """
    text = value if isinstance(value, str) else as_json(value)
    cut = "" if len(text) <= most else f" ... ({len(text)} characters in all)"
    return "".join(map(_escaped, text[:most])) + cut


def as_json(value: Any) -> str:
    """Return a value as JSON on one line, with the ``repr`` of whatever JSON cannot hold."""
    return json.dumps(value, ensure_ascii=False, default=repr)


def error_line(error: BaseException) -> str:
    """Return an error's type and message on one line, whatever the message holds."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - it is somebody else's error, and about to be told
        text = "its message cannot be read"
    name = type(error).__name__
    return one_line(f"{name}: {text}" if text else name)


def error_and_place(error: BaseException) -> str:
    """Return `error_line` and where the error was raised, innermost call first.

    A traceback in a log would do, but for the message in it, which may hold lines of its own.
    """
    frames = [(frame.f_code, line) for frame, line in traceback.walk_tb(error.__traceback__)][-_MAX_CALLS:]
    calls = [f"{PurePath(code.co_filename).name}:{line} in {code.co_name}" for code, line in reversed(frames)]
    return one_line(f"{error_line(error)} (at {' < '.join(calls)})", 2000)


def counted(number: int, noun: str) -> str:
    """Return a number and what it counts: ``1 file``, ``2 files``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a question that names the nearest of what is known, with a space before it; empty if none is near."""
    near = get_close_matches(name, dict.fromkeys(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def run_name(scan_id: Any, plan_name: Any, uid: str) -> str:
    """Return what flow runs about a run are called, for a person to find them: scan id, plan, start of the uid."""
    parts = ["run" if scan_id is None else f"scan-{scan_id}", str(plan_name or ""), uid[:8]]
    return "-".join(printable(part)[:_NAME_LENGTH] for part in parts if part)


def printable(text: str) -> str:
    """Return text with ``_`` in place of what cannot be printed."""
    return "".join(character if character.isprintable() else "_" for character in text)


def is_number(value: Any) -> TypeGuard[int | float]:
    """Say whether a value is a finite number (a boolean is none)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _escaped(character: str) -> str:
    if unicodedata.category(character) not in _UNSAFE:
        return character
    short = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(character)
    return short or (f"\\u{ord(character):04x}" if ord(character) < 0x10000 else f"\\U{ord(character):08x}")
