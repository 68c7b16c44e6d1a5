"""The result of a campaign as a table."""

from collections import defaultdict

from rich.table import Table

from tests.chaos.campaign import Injection, Outcome


def table(outcome: Outcome) -> Table:
    """Return a row for each fault, and one for all of them."""
    verdict = outcome.verdict
    made = Table("fault", title="Faults while scans run: what became of the runs")
    for heading in ("times", "runs at risk", "lost", "duplicated", "other in Tiled", "recovered in s, most"):
        made.add_column(heading, justify="right")
    by_fault: dict[str, list[Injection]] = defaultdict(list)
    for injection in outcome.injections:
        by_fault[injection.fault.title].append(injection)
    for title, injections in sorted(by_fault.items()):
        at_risk = set().union(*(injection.at_risk for injection in injections))
        made.add_row(
            title,
            str(len(injections)),
            str(len(at_risk)),
            str(len(at_risk & verdict.lost.keys())),
            str(len(at_risk & verdict.duplicated.keys())),
            str(len(at_risk & verdict.differing.keys())),
            _longest(injections),
        )
    made.add_section()
    wrong = (verdict.lost, verdict.duplicated, verdict.differing)
    counted = (len(outcome.injections), verdict.compared, *(len(one) for one in wrong))
    made.add_row("all", *(str(number) for number in counted), _longest(outcome.injections))
    return made


def _longest(injections: list[Injection]) -> str:
    seconds = [injection.recovered_s for injection in injections]
    return "never" if None in seconds else f"{max(seconds, default=0.0):.1f}"
