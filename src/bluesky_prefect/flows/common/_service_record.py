"""Services on the internet that did not answer: what several flow runs, each a process, remember of them."""

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from bluesky_prefect.core import ServiceUnavailable, counted, without_secrets, write_whole

# So many questions in a row go unanswered before a service is asked more rarely: after a minute, then after twice as
# long each time, up to an hour.
_IN_A_ROW = 3
_FIRST_WAIT_S = 60.0
_LONGEST_WAIT_S = 3600.0


class QuestionRefused(ServiceUnavailable):
    """The service is there, and has no answer to this question."""


@dataclass(frozen=True)
class _Outage:
    url: str
    failures: int
    last_s: float
    reason: str

    def remaining_s(self, now_s: float) -> float:
        """Return for how long the service is not asked; not at all if the clock was set back since."""
        if self.failures < _IN_A_ROW or now_s < self.last_s:
            return 0.0
        wait_s = min(_FIRST_WAIT_S * 2.0 ** min(self.failures - _IN_A_ROW, 10), _LONGEST_WAIT_S)
        return self.last_s + wait_s - now_s


class ServiceRecord:
    """The record of one service, in a file of the state directory that is there only while it does not answer.

    Of two flow runs that ask at once, each may count as one failure or both as one. Where the file cannot be written,
    the service is asked each time.

    Parameters
    ----------
    name : str
        What the service is asked for, for the file's name.
    url : str
        Its address: a record of another one does not count.
    directory : Path
        The state directory.
    clock : callable
        The time, in seconds since 1970.
    """

    def __init__(self, name: str, url: str, directory: Path, clock: Callable[[], float] = time.time) -> None:
        self._path = directory / f"unavailable-{name}.json"
        self._url = without_secrets(url)
        self._clock = clock

    @property
    def worth_waiting_for(self) -> bool:
        """True if it answered last, or is asked again after a long time: others need not wait for the next answer."""
        outage = self._read()
        return outage is None or outage.failures >= _IN_A_ROW

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Ask in the block, and remember whether that raises `ServiceUnavailable`.

        Raises
        ------
        ServiceUnavailable
            At once, if the service is not to be asked now.
        """
        outage = self._read()
        if outage and (remaining_s := outage.remaining_s(self._clock())) > 0:
            again = f"asked again in {counted(math.ceil(remaining_s / 60), 'minute')}"
            raise ServiceUnavailable(f"{outage.reason} (the last {outage.failures} times; {again})")
        try:
            yield
        except QuestionRefused:
            self._forget()
            raise
        except ServiceUnavailable as error:
            self._write(_Outage(self._url, (outage.failures if outage else 0) + 1, self._clock(), str(error)))
            raise
        self._forget()

    def _read(self) -> _Outage | None:
        try:
            outage = _Outage(**json.loads(self._path.read_bytes()))
            outage.remaining_s(0.0)
        except (OSError, ValueError, TypeError):  # not there, or of another version
            return None
        return outage if outage.url == self._url else None

    def _write(self, outage: _Outage) -> None:
        with suppress(OSError):
            write_whole(self._path, json.dumps(asdict(outage)).encode(), private=True)

    def _forget(self) -> None:
        with suppress(OSError):
            self._path.unlink(missing_ok=True)
