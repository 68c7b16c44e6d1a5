"""The count at the end: what became of each run, and of its data."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bluesky_prefect.cli._comparison import Comparison, compare_run
from bluesky_prefect.flows import OWNER
from tests.chaos.beamline import Beamline
from tests.chaos.stored import difference_of_run

_AT_ONCE = 4


@dataclass
class Verdict:
    """What is wrong, by run; nothing, if Tiled has each run and each was processed exactly once.

    Attributes
    ----------
    runs : int
        How many runs were promised.
    compared : int
        How many runs were compared with what Tiled has of them: also those that never stopped.
    events : int
        How many events that were.
    lost, duplicated, differing : dict
        Uids of runs, with the reason.
    """

    runs: int = 0
    compared: int = 0
    events: int = 0
    lost: dict[str, str] = field(default_factory=dict)
    duplicated: dict[str, str] = field(default_factory=dict)
    differing: dict[str, str] = field(default_factory=dict)

    @property
    def sound(self) -> bool:
        return not self.lost and not self.duplicated and not self.differing


def judge(
    promised: Iterable[str],
    completed: Sequence[str],
    folders: Mapping[str, Sequence[Path]],
    differences: Mapping[str, Sequence[str]],
    damaged: Collection[str] = (),
) -> Verdict:
    """Return which runs were lost, and which processed twice.

    Parameters
    ----------
    promised : iterable of str
        Runs that have to be processed. Others (killed inside `stop`) may be, but not twice either.
    completed : sequence of str
        The run of each completed flow run.
    folders : mapping
        The folders that hold exported files, by run.
    differences : mapping
        What differs between a run's files and Tiled, by run; empty if nothing does.
    damaged : collection of str
        Runs that Tiled cannot have as they were: they must not be processed.
    """
    verdict = Verdict()
    times = Counter(completed)
    for uid in damaged:
        if times[uid]:
            verdict.duplicated[uid] = "processed, though Tiled does not have it"
    for uid in promised:
        verdict.runs += 1
        if uid in damaged:
            continue
        if not times[uid]:
            verdict.lost[uid] = "no completed flow run"
        elif not folders.get(uid):
            verdict.lost[uid] = "no files"
        elif found := differences.get(uid, ["not compared with Tiled"]):
            verdict.lost[uid] = found[0]
    for uid in {*times, *folders}:
        if times[uid] > 1:
            verdict.duplicated[uid] = f"{times[uid]} completed flow runs"
        elif len(folders.get(uid, ())) > 1:
            verdict.duplicated[uid] = f"{len(folders[uid])} folders of files"
    return verdict


def audit(beamline: Beamline) -> Verdict:
    """Return what became of all runs so far, once none is on its way."""
    from tiled.client import from_uri

    with suppress(AssertionError):  # those that still are, are found below
        beamline.delivered_all()

    folders = exported(beamline.exports)
    root = from_uri(beamline.info.tiled_uri, api_key=beamline.info.tiled_api_key.get_secret_value())
    try:
        raw = root[beamline.settings.raw_container]
        with ThreadPoolExecutor(_AT_ONCE) as pool:  # most of it is waiting for Tiled
            found = pool.map(lambda uid: _differences(raw, uid, folders[uid][0]), folders)
            differences = dict(zip(folders, found, strict=True))
            verdict = judge(
                beamline.ledger.promised(), beamline.prefect.completed(), folders, differences, beamline.damaged
            )
            _compare_with_emissions(beamline, raw, pool, verdict)
    finally:
        root.context.close()
    return verdict


def _compare_with_emissions(beamline: Beamline, raw: Any, pool: ThreadPoolExecutor, verdict: Verdict) -> None:
    beamline.drain_emissions()
    begun = sorted(beamline.emissions.begun())
    emitted = {uid: beamline.emissions.of(uid) for uid in begun}
    found = pool.map(lambda uid: difference_of_run(raw.get(uid), emitted[uid], beamline.cut.get(uid)), begun)
    refused = {one.run_uid: one.reason for one in beamline.journals.refused()}
    waiting = beamline.journals.undelivered_runs() - refused.keys()
    verdict.compared = len(begun)
    verdict.events = sum(one.events for one in emitted.values())
    verdict.differing |= {uid: one for uid, one in zip(begun, found, strict=True) if one}
    verdict.differing |= dict.fromkeys(waiting & emitted.keys(), "still on its way to Tiled")
    verdict.differing |= {uid: f"refused: {refused[uid]}" for uid in refused.keys() & emitted.keys() - beamline.damaged}
    verdict.differing |= dict.fromkeys(beamline.damaged - refused.keys(), "damaged, but not set aside")


def exported(exports: Path) -> dict[str, list[Path]]:
    """Return the folders of exported files by the uid that is written in them."""
    folders: dict[str, list[Path]] = defaultdict(list)
    for owner in exports.rglob(OWNER):
        folders[owner.read_text().strip()].append(owner.parent)
    return dict(folders)


def _differences(raw: Any, uid: str, folder: Path) -> list[str]:
    try:
        run = raw[uid]
    except KeyError:
        return ["not in Tiled"]
    if not run.metadata.get("stop"):
        return ["not whole in Tiled"]
    comparison = Comparison()
    compare_run(run, folder, comparison)
    kinds = Counter(path.suffix for path in folder.iterdir() if not path.name.startswith("."))
    has_images = any("image_det" in run[stream].metadata["data_keys"] for stream in run)
    wanted = {".txt": 1, ".png": 1 + has_images, ".nxs": 1, ".csv": len(run)}
    if kinds != wanted:
        comparison.differences.append(f"{folder} holds {dict(kinds)}, not {wanted}")
    return comparison.differences
