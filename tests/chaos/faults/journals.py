"""Faults of journals whose sessions are dead: they end too early, or hold other bytes than were written."""

import struct
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from random import Random

from tests.chaos.beamline import Beamline
from tests.chaos.fault import fault
from tests.services.prefect_process import wait_until

# Of a frame: the length of its content, the same inverted, and a checksum.
_HEADER = struct.Struct("<III")


@fault("journal-cut", "journals cut at any byte, their session dead", runs=(6, 12))
def cut(beamline: Beamline, chance: Random, runs: int) -> None:
    for journal in _leave_journals(beamline, chance, runs, plain=True):
        content = journal.read_bytes()
        ends = _ends(content)
        # Also in the first document, and between two.
        at = chance.choice([chance.randrange(1, ends[-1]), chance.randrange(1, ends[0]), chance.choice(ends[:-1])])
        _put_in_its_place(journal, content[:at])
        beamline.cut[_uid(journal)] = whole = sum(end <= at for end in ends)
        if not whole:
            beamline.damaged.add(_uid(journal))
    _deliver_and_check_log(beamline)


@fault("journal-damaged", "journals damaged at any byte, their session dead", runs=(6, 12))
def damaged(beamline: Beamline, chance: Random, runs: int) -> None:
    for journal in _leave_journals(beamline, chance, runs, plain=False):
        content = bytearray(journal.read_bytes())
        ends = _ends(content)
        at = chance.randrange(ends[-1])
        if chance.random() < 0.5:
            content[at] ^= 1 << chance.randrange(8)
        else:  # as where the machine has lost its power
            content[at:] = bytes(len(content) - at)
            at = min(at + next((n for n, byte in enumerate(journal.read_bytes()[at:]) if byte), 0), len(content) - 1)
        _put_in_its_place(journal, bytes(content))
        beamline.cut[_uid(journal)] = sum(end <= at for end in ends)
        beamline.damaged.add(_uid(journal))
    _deliver_and_check_log(beamline)


def _leave_journals(beamline: Beamline, chance: Random, runs: int, *, plain: bool) -> list[Path]:
    """Have runs that stopped, and that nobody has taken to Tiled; return the journals of some of them."""
    beamline.delivered_all()
    beamline.courier.kill()
    acquisition = beamline.acquisition
    (acquisition.plain if plain else acquisition.count)(runs)
    left = sorted(one.path for one in beamline.journals.waiting())
    acquisition.count(2)
    acquisition.kill()
    return chance.sample(left, runs // 2)


def _deliver_and_check_log(beamline: Beamline) -> None:
    """Have all delivered that can be, and see that somebody was told of the others."""
    _ = beamline.courier
    beamline.delivered_all()
    refused = {one.run_uid: one.reason for one in beamline.journals.refused()}
    assert beamline.damaged <= refused.keys(), f"not set aside: {beamline.damaged - refused.keys()}"

    def told() -> bool:
        lines = [line for line in beamline.courier_log().splitlines() if "set aside" in line]
        return all(any(uid[:8] in line for line in lines) for uid in beamline.damaged)

    wait_until(told, timeout_s=10)


def _ends(content: Sequence[int]) -> list[int]:
    """Return where each frame ends."""
    lengths, at = [], 0
    while at < len(content):
        lengths.append(_HEADER.size + _HEADER.unpack_from(bytes(content), at)[0])
        at += lengths[-1]
    return list(accumulate(lengths))


def _put_in_its_place(journal: Path, content: bytes) -> None:
    copy = journal.with_suffix(".copy")
    copy.write_bytes(content)
    copy.replace(journal)


def _uid(journal: Path) -> str:
    return journal.name.partition(".")[0]
