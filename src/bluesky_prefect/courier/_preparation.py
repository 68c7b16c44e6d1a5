"""Preparation of the first run, while there is nothing to send."""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from bluesky_prefect.core import (
    DeploymentMissing,
    PrefectUnavailable,
    error_and_place,
    error_line,
    file_identity,
    file_of_list,
    load_workflows,
    on_daemon_thread,
)
from bluesky_prefect.courier._reminders import Reminders
from bluesky_prefect.outbox import Entry
from bluesky_prefect.prefect_api import PrefectApi, first_listed, missing_deployments

logger = logging.getLogger(__name__)

_LOOK_UP_TIMEOUT_S = 2.0
# What takes longer is looked at again in a later step.
_PATIENCE_S = 0.5
# A Prefect that is away is asked so many steps later at most.
_MAX_PAUSE = 32

_Identity = tuple[int, int, int] | None


class Preparation:
    """Prefect imported, deployments looked up, notifications there, and the dates of workflows noted.

    Parameters
    ----------
    connected : callable
        Returns the API; raises `PrefectUnavailable`.
    deployments, notices : sequence of str
        See `Forwarder`.
    listed_at : str or None
        Where the list is that reconciliation compares with; where nobody here knows it, all that sessions start is
        taken for listed.
    """

    def __init__(
        self,
        connected: Callable[[], PrefectApi],
        deployments: Sequence[str],
        notices: Sequence[str],
        reminders: Reminders,
        listed_at: str | None,
    ) -> None:
        self._connected = connected
        # Without a lock, which a thread might hold when the process forks; each operation on a dictionary is one.
        self._unchecked = dict.fromkeys(deployments)
        self._known = set(self._unchecked)
        self._asked: list[str] = []
        self._looking: Future[dict[str, str]] | None = None
        self._notices = notices
        self._reminders = reminders
        self._pause = _Pause()
        self._listed_at = listed_at
        # When workflows were first seen in a session; None once Prefect knows.
        self._seen: dict[str, float | None] = {}
        # Names that are not on the list, and the file in which they are not.
        self._refused: frozenset[str] = frozenset()
        self._refused_by: _Identity = None
        self._listing: Future[tuple[_Identity, frozenset[str] | None]] | None = None
        self._list_pause = _Pause()

    @property
    def is_done(self) -> bool:
        """True once the deployments were looked up."""
        return not self._unchecked

    @property
    def is_looking(self) -> bool:
        """True while an answer about deployments is on its way."""
        return self._looking is not None and not self._looking.done()

    def add(self, deployments: Sequence[str]) -> None:
        """Take note of deployments to look up; those that were looked up are not looked up again."""
        new = [name for name in dict.fromkeys(deployments) if name not in self._known]
        self._known.update(new)
        self._unchecked.update(dict.fromkeys(new))

    def after_fork(self) -> None:
        """Forget, in a child, the look-ups that its parent's threads are at."""
        self._looking = self._listing = None

    def saw(self, entry: Entry) -> None:
        """Take note of a submission that was sent: its workflow may be on the list."""
        self._seen.setdefault(entry.workflow, entry.created)

    def look_up(self) -> None:
        """Look the deployments up without importing Prefect, once it answers: a wrong name is told before the scan."""
        if self.is_done:
            return
        if not self._pause.is_over():
            return
        try:
            if self._looking is None:
                self._asked = list(self._unchecked)
                # A server may drip, and the look-up of its name hang: a session is not kept from sending, or ending.
                self._looking = on_daemon_thread(missing_deployments, self._asked, _LOOK_UP_TIMEOUT_S)
            missing = self._looking.result(_PATIENCE_S)
        except Exception as error:  # noqa: BLE001 - the courier tells of an outage
            if self.is_looking:
                return  # to look again for its answer costs nobody anything
            logger.debug("The names of deployments were not looked up: %s", error_line(error))
            self._pause.grow()
            self._looking = None
            return
        self._looking = None
        for deployment, message in missing.items():
            self._reminders.tell(deployment, logging.WARNING, "%s", message)
        self._checked(self._asked)

    def begin(self) -> None:
        """Import Prefect, and ask it once for each deployment: a wrong key is told before the first scan's end."""
        deployments = list(self._unchecked)
        self._checked(deployments)
        try:
            api = self._connected()
            for deployment in deployments:
                try:
                    api.check(deployment)
                except DeploymentMissing as error:
                    self._reminders.tell(deployment, logging.WARNING, "Runs will wait: %s", error)
            api.prepare_notifications(self._notices)
        except PrefectUnavailable as error:
            level = logging.INFO if error.transient else logging.ERROR
            self._reminders.tell("start", level, "Runs will wait in the outbox: %s", error)
        except Exception as error:  # noqa: BLE001 - it goes on, whatever it is
            self._reminders.tell(
                "start", logging.ERROR, "Prefect cannot be asked for deployments: %s", error_and_place(error)
            )

    def _checked(self, deployments: Sequence[str]) -> None:
        for name in deployments:
            self._unchecked.pop(name, None)

    def go_on(self, api: PrefectApi) -> None:
        """See to what may have changed since."""
        api.prepare_notifications(self._notices)
        self.note_listed(api)

    def note_listed(self, api: PrefectApi) -> None:
        """Let Prefect know since when workflows are on a list, for reconciliation, on whichever machine.

        One that a session starts beside the list has no such date: when it is listed later, it is new. A list that is
        a module's is as it was when this process imported it: what only a session's newer one names has no date until
        `reconcile` gives it one.
        """
        unknown = {name: at for name, at in self._seen.items() if at is not None}
        if not unknown or not self._list_pause.is_over():
            return
        try:
            listed = self._listed_names(frozenset(unknown))
            for name, at in unknown.items():
                if name in self._refused:
                    del self._seen[name]
                elif name in listed:
                    first_listed(api, [name], at, note=True)
                    self._seen[name] = None
        except Exception as error:  # noqa: BLE001 - a later idle moment will do
            logger.debug("Prefect was not told since when workflows are listed: %s", error_and_place(error))
            self._list_pause.grow()
        else:
            self._list_pause = _Pause()

    def _listed_names(self, unknown: frozenset[str]) -> frozenset[str]:
        """Return the names on the list, and remember which of those unknown are not; none if it was not loaded again.

        Raises `TimeoutError` if the list is not there yet: a later call returns what came of it.
        """
        if not self._listed_at:
            return unknown
        if self._listing is None:
            self._listing = on_daemon_thread(_look_at, self._listed_at, unknown, self._refused, self._refused_by)
        try:
            identity, listed = self._listing.result(_PATIENCE_S)
        finally:
            if self._listing.done():
                self._listing = None
        if listed is None:
            return frozenset()
        before = self._refused if identity == self._refused_by else frozenset()
        self._refused, self._refused_by = (before | unknown) - listed, identity
        return listed


class _Pause:
    """Steps to pass over after a failure: more after each."""

    def __init__(self) -> None:
        self._left = self._next = 0

    def is_over(self) -> bool:
        """Tell whether none is left; else this is one of them."""
        if self._left:
            self._left -= 1
            return False
        return True

    def grow(self) -> None:
        self._next = self._left = min(2 * self._next + 1, _MAX_PAUSE)


def _look_at(
    where: str, names: frozenset[str], refused: frozenset[str], refused_by: _Identity
) -> tuple[_Identity, frozenset[str] | None]:
    """Return what the list's file is known by, and the names on it; None for these if it refuses all, as is known."""
    file = file_of_list(where)
    identity = file and file_identity(file)
    if names <= refused and identity == refused_by:
        return identity, None
    return identity, frozenset(name for workflow in load_workflows(where) for name in workflow.names)
