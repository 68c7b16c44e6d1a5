"""Both servers alike: they answer, in a version that was tried, by a clock that agrees."""

import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from bluesky_prefect.cli.check._finding import Findings
from bluesky_prefect.cli.check._places import Place
from bluesky_prefect.core import counted
from bluesky_prefect.stack import probe

# A server that takes longer is asked in vain by sessions too.
TIMEOUT_S = 5.0
# A server tells the time in whole seconds, and late.
_SAME_TIME_S = 5.0


@dataclass(frozen=True)
class _Clock:
    """A server's clock: by how many seconds it is ahead of this machine's, and by how many that may be wrong."""

    ahead_s: float
    within_s: float


def answers(findings: Findings, name: str, place: Place) -> bool:
    """Note where a server is and whether anybody answers there; return whether it is of use to ask it more."""
    if not place.said_by:
        findings.problem("address", f"No {name} server is named, and no local stack is up.", place.remedy)
        return False
    if not place.url:  # a profile may be of a server inside this process; one that is missing is told by its error
        findings.ok("address", str(place))
        return True
    answer = probe(place.url, TIMEOUT_S)
    if answer.problem:
        findings.problem("address", f"{place}: {answer.problem}", place.remedy)
        return False
    findings.ok("address", str(place))
    return True


def versions(findings: Findings, package: str, server: str) -> None:
    """Note a package's versions here and on its server, by the ranges that this package's own metadata name."""
    try:
        here = version(package)
    except PackageNotFoundError:
        here = "none"
    base, flows = _range(package, ""), _range(package, "flows")
    found = f"{package} {here} here, {server} on the server"
    if server not in (base or flows):
        findings.warning("version", found, f"this package works with {package} {base or flows}: upgrade the server")
    elif here == "none" or here not in flows:
        remedy = f'commands and flows are tested with {package} {flows}: pip install "bluesky-prefect[flows]"'
        findings.warning("version", found, remedy)
    else:
        findings.ok("version", found)


def _range(package: str, extra: str) -> SpecifierSet:
    """Return the versions of a package that this one asks for, with an extra; an empty set admits any."""
    asked = (Requirement(text) for text in requires("bluesky-prefect") or [])
    combined = SpecifierSet()
    for one in asked:
        if one.name == package and (one.marker is None or one.marker.evaluate({"extra": extra})):
            combined &= one.specifier
    return combined


def look_at_clocks(prefect: Place, tiled: Place) -> Findings:
    """Compare this machine's clock with those of both servers."""
    findings = Findings("clocks")
    for name, place in (("prefect", prefect), ("tiled", tiled)):
        if place.url and (clock := _clock(place.url)) is not None:
            _judge(findings, name, clock)
    return findings


def _clock(url: str) -> _Clock | None:
    began, before = time.time(), time.monotonic()
    answer = probe(url, TIMEOUT_S)
    took_s = time.monotonic() - before
    if answer.server_time is None:
        return None
    # It was some time in the second that it names, and some time while it was waited for.
    return _Clock(answer.server_time + 0.5 - (began + took_s / 2), (1 + took_s) / 2)


def _judge(findings: Findings, name: str, clock: _Clock) -> None:
    title = name.capitalize()
    skew_s = abs(clock.ahead_s)
    if skew_s <= max(_SAME_TIME_S, clock.within_s):
        findings.ok(name, f"{title}'s clock agrees with this machine's to {max(skew_s, clock.within_s):.1f} s")
        return
    side = "ahead of" if clock.ahead_s > 0 else "behind"
    findings.warning(
        name,
        f"{title}'s clock is {counted(round(skew_s), 'second')} {side} this machine's (within {clock.within_s:.1f} s)",
        "set both by NTP: flow runs start late, and times of runs and flow runs do not compare",
    )
