"""The time since which Prefect has all flow runs."""

import math
from collections.abc import Callable

from bluesky_prefect.core import Settings
from bluesky_prefect.prefect_api import PrefectApi, RetentionUnknown, flow_runs_kept_s

_DAY_S = 86400.0
# So far may the clock of a run's machine be ahead of Prefect's; of a short time, so great a part.
_CLOCKS_APART_S = _DAY_S
_CLOCKS_APART = 0.1


def remembered_since(api: PrefectApi, settings: Settings, now_s: float, warn: Callable[[str], None]) -> float:
    """Return since when Prefect has all flow runs of the runs that stopped from then on, in seconds since the epoch.

    Minus infinity, if nothing is known to delete flow runs: neither Prefect's vacuum nor, by the setting
    ``flow_runs_kept_days``, anything else. It is `now_s` by Prefect's clock. Where the server cannot tell, and the
    setting does not, `warn` is told so. Raises `PrefectUnavailable` if Prefect cannot be asked.
    """
    days = settings.flow_runs_kept_days
    by_server = None
    try:
        by_server = flow_runs_kept_s(api)
    except RetentionUnknown as error:
        if days is None:
            warn(str(error))
    kept = [one for one in (by_server, days and days * _DAY_S) if one is not None]
    if not kept:
        return -math.inf
    return now_s - min(kept) + min(_CLOCKS_APART_S, min(kept) * _CLOCKS_APART)
