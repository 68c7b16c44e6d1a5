"""Runs as Tiled holds them: those of a stretch of time, and those that somebody names."""

import heapq
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, overload
from urllib.parse import parse_qs, urlsplit

from bluesky_prefect.core import FlowInputError, Run, uid_text
from bluesky_prefect.tiled_api._catalog import Catalog
from bluesky_prefect.tiled_api._connect import tiled_errors
from bluesky_prefect.tiled_api._external_array import external_files, family
from bluesky_prefect.tiled_api._run_lookup import require_one

if TYPE_CHECKING:
    from tiled.client.container import Container

# The most that a Tiled server gives at once. Without an index each page costs it a look at every run.
_PAGE = 300
_FIRST_PAGE = 25
# They stand in the address, which some proxies allow 4 kB.
_UIDS = 50
_NEVER_S = 1e12
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)")


class _Files(Sequence[str]):
    """Addresses of files, asked for when somebody looks at them."""

    def __init__(self, ask: Callable[[], tuple[str, ...]]) -> None:
        self._ask = ask

    @cached_property
    def _known(self) -> tuple[str, ...]:
        return self._ask()

    def __len__(self) -> int:
        return len(self._known)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        return self._known[index]


@dataclass(frozen=True, kw_only=True)
class StoredRun(Run):
    """A run in Tiled; `key` is that of its entry in the catalog, which mostly is its uid."""

    key: str


def runs_between(
    catalog: Catalog, since_s: float, until_s: float | None, *, plan: str | None = None, scan_id: int | None = None
) -> Iterator[StoredRun]:
    """Yield the runs that stopped in a stretch of time, and those that started in it and have not stopped.

    Tiled looks at each of its runs for that, unless its database has an index on both times: the local stack's has, and
    docs/how-to/large-catalogs.md makes one in PostgreSQL.

    They come newest first, in the order in which they were written to Tiled, whenever that was. Each run that is in
    Tiled at the first one is there once; one that stops meanwhile is given as it is when its page is read. A run whose
    documents hold no time is in no stretch of time.

    The ends are in seconds since the epoch; without `until_s` there is no end. All runs are meant, or those of one plan
    or scan id. Raises `TiledUnavailable` if Tiled cannot be asked.
    """
    from tiled.queries import Comparison, Eq

    raw = catalog.raw
    wanted: list[Any] = []
    if plan is not None:
        wanted.append(Eq("start.plan_name", plan))
    if scan_id is not None:
        wanted.append(Eq("start.scan_id", scan_id))

    begin_s, end_s = float(since_s), _NEVER_S if until_s is None else float(until_s)

    def within(key: str) -> list[Any]:
        # SQLite takes a stretch with two ends to be shorter, and chooses its index by that.
        return [Comparison("ge", key, begin_s), Comparison("lt", key, end_s), *wanted]

    # By its start, which never changes, each run is in one of the three, also if it stops between two requests. A run
    # starts after the end of the window if the clock was set back while it went on.
    searches = [
        within("start.time"),
        [Comparison("lt", "start.time", begin_s), *within("stop.time")],
        [Comparison("ge", "start.time", end_s), *within("stop.time")],
    ]
    found = (_search(catalog, raw, queries) for queries in searches)
    for run in heapq.merge(*found, key=lambda run: run.time_s, reverse=True):
        if begin_s <= run.time_s < end_s:
            yield run


def newest_runs(catalog: Catalog, number: int | None = None) -> Iterator[StoredRun]:
    """Yield all runs, or so many, the one that came to Tiled last first; raises `TiledUnavailable`.

    A page is small at first and larger then: mostly a few runs are wanted.
    """
    return islice(_search(catalog, catalog.raw, [], page=_FIRST_PAGE), number)


def runs_named(catalog: Catalog, refs: Sequence[str]) -> Iterator[tuple[str, StoredRun]]:
    """Return the runs that references name, each with its reference.

    Parameters
    ----------
    catalog : Catalog
        Where they are.
    refs : sequence of str
        Each a scan id, a full or partial uid or a negative index as in `Catalog.find`, or a range: ``1200..1250`` of
        scan ids or ``-10..-1`` of indexes, ends included. What a range names and Tiled does not hold is left out.

    Raises
    ------
    FlowInputError
        If a reference cannot name a run, or a scan id names several.
    RunNotFound
        If a reference names no run at all. All references are looked up before the first run is given.
    TiledUnavailable
        If Tiled cannot be asked.
    """
    return iter([(ref, run) for ref in refs for run in _named(catalog, ref)])


def runs_with_uids(catalog: Catalog, uids: Iterable[str]) -> Iterator[StoredRun]:
    """Yield the runs with these keys, as far as Tiled has them; raises `TiledUnavailable`.

    A run's key is its full uid, unless somebody has stored it under another one.
    """
    from tiled.queries import KeysFilter

    left = iter(uids)
    while batch := list(islice(left, _UIDS)):
        yield from _search(catalog, catalog.raw, [KeysFilter(batch)])


def _named(catalog: Catalog, ref: str) -> Sequence[StoredRun]:
    ends = _RANGE.fullmatch(ref.strip())
    if ends is None:
        return [_stored(catalog, catalog.find(ref).item)]
    first, last = int(ends[1]), int(ends[2])
    if first > last or first <= 0 <= last:
        raise FlowInputError(
            f"{ref!r} is not a range of runs: write 1200..1250 for scan ids, or -10..-1 for the ten newest runs."
        )
    runs = _with_scan_ids(catalog, first, last) if first > 0 else _at_indexes(catalog, first, last)
    if not runs:
        raise catalog.no_run(ref)
    return runs


def _with_scan_ids(catalog: Catalog, first: int, last: int) -> list[StoredRun]:
    from tiled.queries import Comparison

    found: dict[int, list[StoredRun]] = {}
    bounds = [Comparison("ge", "start.scan_id", first), Comparison("le", "start.scan_id", last)]
    for run in _search(catalog, catalog.raw, bounds):
        scan_id = run.scan_id
        if scan_id is not None:
            found.setdefault(scan_id, []).append(run)
    for scan_id in sorted(found):
        require_one([run.start for run in found[scan_id]], scan_id)
    return [found[scan_id][0] for scan_id in sorted(found)]


def _at_indexes(catalog: Catalog, first: int, last: int) -> list[StoredRun]:
    runs = _search(catalog, catalog.raw, [], offset=-1 - last)
    return list(islice(runs, last - first + 1))[::-1]


def _search(
    catalog: Catalog, raw: "Container", queries: Sequence[Any], offset: int = 0, page: int = _PAGE
) -> Iterator[StoredRun]:
    """Yield the runs that match all queries, the one that was written to Tiled last first."""
    link = raw.item["links"]["search"]
    pages = _pages(catalog, raw, link, {**_as_parameters(queries), "page[offset]": offset, "page[limit]": page})
    return (_stored(catalog, item) for item in chain.from_iterable(pages))


def _pages(catalog: Catalog, raw: "Container", link: str, parameters: dict[str, Any]) -> Iterator[list[Any]]:
    # Tiled's own client asks for everything, also for how many streams each run has: several times as slow.
    asked = {"fields": "metadata", "select_metadata": "{start: start, stop: stop}", "omit_links": True, "sort": "-"}
    while True:
        with tiled_errors(catalog.name):
            answer = _answer(raw, link, {**asked, **parameters})
        yield answer["data"]
        following = answer["links"]["next"]
        if following is None:
            return
        parameters = {name: value for name, value in parameters.items() if not name.startswith("page[")}
        parameters |= parse_qs(urlsplit(following).query) | {"page[limit]": _PAGE}


def _answer(raw: "Container", link: str, parameters: Mapping[str, Any]) -> Any:
    from tiled.client.utils import handle_error, retry_context

    for attempt in retry_context():
        with attempt:
            response: Any = handle_error(raw.context.http_client.get(link, params=dict(parameters)))
            return response.json()
    return None


def _as_parameters(queries: Sequence[Any]) -> dict[str, list[Any]]:
    from tiled.query_registration import default_query_registry

    parameters: dict[str, list[Any]] = {}
    for query in queries:
        name = default_query_registry.query_type_to_name[type(query)]
        for key, value in query.encode().items():
            parameters.setdefault(f"filter[{name}][condition][{key}]", []).append(value)
    return parameters


def _stored(catalog: Catalog, item: Mapping[str, Any]) -> StoredRun:
    metadata = _mapping(item["attributes"]["metadata"])
    documents = _mapping(metadata.get("selected", metadata))
    start = _mapping(documents.get("start"))
    key = item["id"]
    return StoredRun(
        key=key,
        uid=uid_text(start.get("uid", key)),  # as the callback calls it: the submission's key is made of it
        start=start,
        stop=_mapping(documents.get("stop")),
        files=_Files(lambda: _external_files(catalog, key)),
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    """Return what metadata hold in the place of a document; anybody may have written something else there."""
    return value if isinstance(value, Mapping) else {}


def _external_files(catalog: Catalog, key: str) -> tuple[str, ...]:
    raw = catalog.raw
    with tiled_errors(catalog.name):
        run: Any = raw.get(key)
        if run is None:
            raise catalog.no_run(key)
        return tuple(dict.fromkeys(_files_below(run.new_variation(include_data_sources=True))))


def _files_below(container: Any) -> Iterator[str]:
    for node in container.values():
        yield from _files_below(node) if family(node) == "container" else external_files(node)
