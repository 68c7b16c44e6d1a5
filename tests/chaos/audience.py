"""Listeners that start workflows in the place of the callback, what brings documents to them, and who emits these."""

import signal
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Self

from bluesky_prefect import Outbox
from tests.chaos import publishing
from tests.chaos.beamline import Beamline
from tests.chaos.couriering import VARIABLE
from tests.chaos.processes import AcquisitionProcess, ChaosProcess
from tests.services.brokers import KafkaBroker, ZMQProxy
from tests.services.fault_proxy import FaultProxy
from tests.services.prefect_process import wait_until

KINDS = ("tiled", "kafka", "zmq")
_TOPIC = "tst.bluesky.runengine.documents"
_TIMEOUT_S = 90.0


class Listener:
    """``bluesky-prefect listen`` with a state directory of its own, process after process.

    Parameters
    ----------
    beamline : Beamline
        What it belongs to.
    kind : {'tiled', 'kafka', 'zmq'}
        What it listens to.
    *arguments : str
        Where that is, on the command line.
    variables : str
        More of its environment.
    """

    def __init__(self, beamline: Beamline, kind: str, *arguments: str, **variables: str) -> None:
        number = len(list((beamline.root / "logs").glob("listen-*.log")))
        state = beamline.root / f"listen-{number}"
        self.log = beamline.root / "logs" / f"listen-{number}-{kind}.log"
        self._command = ["listen", kind, *arguments]
        self._environment = {
            **beamline.session_environment(),
            "BLUESKY_PREFECT_STATE_DIRECTORY": str(state),
            "BLUESKY_PREFECT_WORKFLOWS": "tests.chaos.workflows:WORKFLOWS",
            "BLUESKY_PREFECT_LISTEN_EVERY_S": "1",
            **variables,
        }
        self._outbox = Outbox(state / "outbox.sqlite")
        self._process = self.start()

    def start(self, kill: str = "", passes: int = 1) -> ChaosProcess:
        """Start its next process; with `kill`, one that kills itself when it passes that point so many times."""
        module = "tests.chaos.couriering" if kill else "bluesky_prefect"
        armed = {VARIABLE: f"{kill} {passes}"} if kill else {}
        self._process = ChaosProcess(module, self._command, {**self._environment, **armed}, self.log)
        return self._process

    def kill(self) -> None:
        """Kill its process."""
        self._process.kill()

    def listens(self) -> None:
        """Wait until it has begun to listen."""
        wait_until(lambda: "Listening to" in self.log.read_text(), _TIMEOUT_S)

    def has(self, uids: set[str], *, state: str = "") -> bool:
        """Tell whether these runs are in its outbox, in this state."""
        return uids <= {entry.run_uid for entry in self._outbox.entries() if state in ("", entry.state)}

    def heard_one_of(self, uids: set[str]) -> bool:
        """Tell whether one of these runs is in its outbox."""
        return any(entry.run_uid in uids for entry in self._outbox.entries())

    def sent(self, uids: set[str]) -> None:
        """Wait until Prefect has what it starts on these runs."""
        try:
            wait_until(lambda: self.has(uids, state="sent") and not self._outbox.has_waiting(), _TIMEOUT_S)
        except AssertionError as error:
            missing = uids - {entry.run_uid for entry in self._outbox.entries(state="sent")}
            raise AssertionError(f"{error}, {self.log.name}: {', '.join(sorted(missing))}") from error

    def close(self) -> None:
        """Stop it as a service manager does."""
        self._process.send_signal(signal.SIGTERM)
        code = self._process.process.wait(_TIMEOUT_S)
        assert code == 0, f"{self.log.name}: exit code {code}"

    def leave(self) -> None:
        """Let go of its files, and of a process that a fault has left."""
        if self._process.alive:
            self._process.kill()
        self._outbox.close()


class Audience:
    """Listeners of some kinds, and an acquisition whose runs come to Prefect by them. To be used in ``with``.

    At the end each run that was promised has to be in the outbox of each listener: what reconciliation would start
    counts as lost here. 0MQ keeps nothing, so that of the runs under `losses` its listener owes none.

    Parameters
    ----------
    beamline : Beamline
        Has Tiled and Prefect.
    *kinds : {'tiled', 'kafka', 'zmq'}
        Which listeners.
    callback : bool
        Whether the acquisition has a `PrefectCallback` too.

    Attributes
    ----------
    acquisition : AcquisitionProcess
        It emits the documents.
    listeners : dict
        The listeners by kind.
    tiled_proxy : FaultProxy
        Between the listener and Tiled.
    kafka : KafkaBroker
        Between the acquisition and the listener to Kafka.
    zmq : ZMQProxy
        Between the acquisition and the listener to 0MQ.
    """

    acquisition: AcquisitionProcess
    tiled_proxy: FaultProxy
    kafka: KafkaBroker
    zmq: ZMQProxy

    def __init__(self, beamline: Beamline, *kinds: str, callback: bool = False) -> None:
        self._beamline = beamline
        self._kinds = kinds
        self._ways = ["callback"] if callback else []
        self._lost: set[str] = set()
        self.listeners: dict[str, Listener] = {}

    def __enter__(self) -> Self:
        self._before = self._beamline.ledger.promised()
        with ExitStack() as made:
            for kind in self._kinds:
                listener = self.listeners[kind] = getattr(self, f"_listen_{kind}")(made)
                made.callback(listener.leave)
            for listener in self.listeners.values():
                listener.listens()
            self.acquisition = self._beamline.another_acquisition(**{publishing.VARIABLE: ";".join(self._ways)})
            self._connect()
            self._made = made.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._made:
            if kind is None:
                self._finish()
            elif self.acquisition.alive:
                self.acquisition.kill()

    @contextmanager
    def losses(self) -> Iterator[None]:
        """Have 0MQ owe nothing of the runs that are taken meanwhile."""
        if "zmq" not in self.listeners:
            yield
            return
        self.listeners["zmq"].sent(self._owed("zmq"))  # what has arrived is on the listener's disk
        before = self._beamline.ledger.seen()
        yield
        self._connect()
        taken = self._beamline.ledger.seen() - before
        self._lost |= taken
        came = sum(self.listeners["zmq"].has({uid}) for uid in taken)
        self._beamline.report(f"0MQ has passed on {came} of {len(taken)} runs that were published under its fault")

    def _connect(self) -> None:
        """Wait until documents get through 0MQ: it drops those that come before its sockets have found each other."""
        if "zmq" in self.listeners:
            probes: set[str] = set()

            def arrived() -> bool:
                probes.add(self.acquisition.probe())
                return self.listeners["zmq"].heard_one_of(probes)

            wait_until(arrived, _TIMEOUT_S)

    def _owed(self, kind: str) -> set[str]:
        promised = self._beamline.ledger.promised() - self._before
        return promised - self._lost if kind == "zmq" else promised

    def _finish(self) -> None:
        self.acquisition.end()
        for kind, listener in self.listeners.items():
            listener.sent(self._owed(kind))
        for listener in self.listeners.values():
            listener.close()

    def _listen_tiled(self, made: ExitStack) -> Listener:
        port = self._beamline.stack.processes()["tiled"].port
        self.tiled_proxy = made.enter_context(closing(FaultProxy(port)))
        return Listener(self._beamline, "tiled", BLUESKY_PREFECT_TILED_URI=self.tiled_proxy.url)

    def _listen_kafka(self, made: ExitStack) -> Listener:
        self.kafka = made.enter_context(closing(KafkaBroker()))
        self._ways.append(f"kafka {self.kafka.address} {_TOPIC}")
        return Listener(self._beamline, "kafka", _TOPIC, "--servers", self.kafka.address)

    def _listen_zmq(self, made: ExitStack) -> Listener:
        self.zmq = made.enter_context(closing(ZMQProxy()))
        self._ways.append(f"zmq {self.zmq.incoming}")
        return Listener(self._beamline, "zmq", self.zmq.outgoing)
