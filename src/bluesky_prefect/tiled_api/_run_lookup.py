"""References to a run: scan id, negative index, or uid."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from bluesky_prefect.core import FlowInputError, is_number, one_line

if TYPE_CHECKING:
    from tiled.client.container import Container

Ref = int | str

_UID_LENGTH = 36
_MAX_CANDIDATES = 10
_SHORTEST_PARTIAL_UID = 5  # as in bluesky_tiled_plugins' CatalogOfBlueskyRuns


def checked_ref(ref: Any) -> Ref:
    """Return a reference to a run, checked as far as that is possible without asking Tiled.

    Raises
    ------
    FlowInputError
        If it is neither a whole number nor text that could be a scan id, an index or a uid.
    """
    if isinstance(ref, bool) or not isinstance(ref, int | str):
        raise FlowInputError(f"A run is named by a scan id, a negative index or a uid, not by {ref!r}.")
    if isinstance(ref, int):
        return ref
    text = ref.strip()
    if not text or "/" in text:
        raise FlowInputError(f"{one_line(ref, 60)!r} is neither a scan id, a negative index nor a uid.")
    if not text.lstrip("-").isdecimal() and len(text) < _SHORTEST_PARTIAL_UID:
        raise FlowInputError(
            f"{one_line(ref, 60)!r} is too short for a partial uid: give {_SHORTEST_PARTIAL_UID} characters or more."
        )
    return text


def find_run(raw: "Container", ref: Ref) -> "Container | None":
    """Return the run of a container that a checked reference names, or None.

    Raises
    ------
    FlowInputError
        If several runs have that scan id, or a uid that begins so.
    """
    if isinstance(ref, int):
        return _by_scan_id(raw, ref) if ref > 0 else _by_index(raw, ref)
    if ref.lstrip("-").isdecimal():
        run = find_run(raw, int(ref))
        return run if run is not None else _by_partial_uid(raw, ref)
    if is_full_uid(ref):
        run = raw.get(ref)
        if run is not None:
            return run
    return _by_partial_uid(raw, ref)


def is_full_uid(ref: Ref) -> bool:
    """Tell whether a reference is a whole uid, so that a run of it may still come."""
    return isinstance(ref, str) and len(ref) == _UID_LENGTH


def require_one(starts: Sequence[Mapping[str, Any]], scan_id: int) -> None:
    """Refuse a scan id that several runs have, whose start documents are given, newest first; list them.

    Raises
    ------
    FlowInputError
        If there is more than one.
    """
    if len(starts) > 1:
        more = ["  and older ones"] if len(starts) > _MAX_CANDIDATES else []
        lines = [*map(_candidate, starts[:_MAX_CANDIDATES]), *more]
        raise FlowInputError("\n".join([f"Scan id {scan_id} names several runs. Give the uid of one:", *lines]))


def _candidate(start: Mapping[str, Any]) -> str:
    time_s = start.get("time")
    moment = f"{datetime.fromtimestamp(time_s).astimezone():%Y-%m-%d %H:%M:%S}" if is_number(time_s) else ""
    return f"  {one_line(start.get('uid', ''), 60)}  {one_line(start.get('plan_name') or '', 40)}  {moment}".rstrip()


def _by_scan_id(raw: "Container", scan_id: int) -> "Container | None":
    from tiled.queries import Eq

    found = raw.search(Eq("start.scan_id", scan_id)).values().tail(_MAX_CANDIDATES + 1)[::-1]
    require_one([run.metadata.get("start") or {} for run in found], scan_id)
    return found[0] if found else None


def described_absence(ref: Ref) -> str:
    """Return what there is not, in words: a reference as in `find_run`, or a range of such numbers."""
    text = str(ref).strip()
    first, _, last = text.partition("..")
    if last:
        kind = "runs with scan ids" if not first.startswith("-") else "runs with the indexes"
        return f"no {kind} {first} to {last}"
    if not text.lstrip("-").isdecimal():
        return f"no run with a uid that {'is' if is_full_uid(ref) else 'begins with'} {one_line(text, 60)!r}"
    number = int(text)
    return f"no run with scan id {number}" if number > 0 else f"no run at index {number}: it has fewer runs"


def _by_index(raw: "Container", index: int) -> "Container | None":
    values: Any = raw.values()
    try:
        return values[index]
    except IndexError:
        return None


def _by_partial_uid(raw: "Container", partial: str) -> "Container | None":
    from tiled.queries import Like

    # The pattern's own wildcards must not match: only what really begins so counts.
    literal = "".join("_" if character in "%_\\" else character for character in partial)
    candidates = raw.search(Like("start.uid", f"{literal}%")).values()[:50]
    found = [run for run in candidates if run.metadata["start"]["uid"].startswith(partial)]
    if len(found) > 1:
        raise FlowInputError(f"Several runs have a uid that begins with {partial!r}: give more characters.")
    return found[0] if found else None
