"""The count at the end: what became of each run that stopped."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bluesky_prefect.cli._comparison import Comparison, compare_run
from bluesky_prefect.flows import OWNER
from tests.chaos.beamline import Beamline

_AT_ONCE = 4


@dataclass
class Verdict:
    """What is wrong, by run; nothing, if each run was processed exactly once.

    Attributes
    ----------
    runs : int
        How many runs were promised.
    lost, duplicated : dict
        Uids of runs, with the reason.
    """

    runs: int = 0
    lost: dict[str, str] = field(default_factory=dict)
    duplicated: dict[str, str] = field(default_factory=dict)

    @property
    def sound(self) -> bool:
        return not self.lost and not self.duplicated


def judge(
    promised: Iterable[str],
    completed: Sequence[str],
    folders: Mapping[str, Sequence[Path]],
    differences: Mapping[str, Sequence[str]],
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
    """
    verdict = Verdict()
    times = Counter(completed)
    for uid in promised:
        verdict.runs += 1
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
    """Return what became of all runs so far."""
    from tiled.client import from_uri

    folders = exported(beamline.exports)
    root = from_uri(beamline.info.tiled_uri, api_key=beamline.info.tiled_api_key.get_secret_value())
    try:
        raw = root[beamline.settings.raw_container]
        with ThreadPoolExecutor(_AT_ONCE) as pool:  # most of it is waiting for Tiled
            found = pool.map(lambda uid: _differences(raw, uid, folders[uid][0]), folders)
            differences = dict(zip(folders, found, strict=True))
    finally:
        root.context.close()
    return judge(beamline.ledger.promised(), beamline.prefect.completed(), folders, differences)


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
    wanted = {".txt": 1, ".png": 1, ".csv": len(run)}
    if kinds != wanted:
        comparison.differences.append(f"{folder} holds {dict(kinds)}, not {wanted}")
    return comparison.differences
