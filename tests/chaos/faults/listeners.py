"""Faults of listeners, and of what brings documents to them, while no callback starts anything."""

import time
from random import Random

from tests.chaos.audience import KINDS, Audience
from tests.chaos.beamline import Beamline
from tests.chaos.fault import Inject, fault
from tests.chaos.faults.acquisition import random_moment
from tests.services.fault_proxy import Mode

_SOME = (12, 30)
# A process of a listener may die while it begins, too.
_BEGINNING = 40
# The second is longer than a group of Kafka waits for its listener, and than anybody's patience for one request.
_ABSENCES_S = (1.0, 12.0)
# 0MQ keeps nothing: reconciliation starts what it loses.
_OF_KIND = {kind: {"heals": kind == "zmq", "runs": _SOME} for kind in KINDS}
_AT = {
    "before-commit": "before its commit",
    "after-commit": "after its commit",
    "after-accepted": "when Prefect has accepted, before that is noted",
}


def _away(chance: Random) -> None:
    # No event to wait for: some of them are over before anybody notices.
    time.sleep(chance.uniform(*_ABSENCES_S))


def _killed(kind: str) -> Inject:
    def inject(beamline: Beamline, chance: Random, runs: int) -> None:
        with Audience(beamline, kind) as audience:
            audience.acquisition.count(runs // 3)
            with audience.losses():
                audience.acquisition.start(runs // 3)
                for _ in range(2):
                    random_moment(chance, _BEGINNING)
                    audience.listeners[kind].kill()
                    audience.listeners[kind].start()
                audience.acquisition.finish()
            audience.acquisition.count(runs // 3)

    return inject


def _killed_at(kind: str, point: str) -> Inject:
    def inject(beamline: Beamline, chance: Random, runs: int) -> None:
        with Audience(beamline, kind) as audience:
            listener = audience.listeners[kind]
            listener.kill()
            armed = listener.start(point, chance.randint(1, runs))
            audience.acquisition.count(runs)
            armed.died()
            listener.start()

    return inject


def _prefect_killed(kind: str) -> Inject:
    def inject(beamline: Beamline, chance: Random, runs: int) -> None:
        with beamline.idle(), Audience(beamline, kind) as audience:
            audience.acquisition.count(runs // 3)
            with audience.losses():
                beamline.kill("prefect")
                audience.acquisition.start(runs // 3)
                random_moment(chance, runs // 3)
                audience.listeners[kind].kill()
                audience.listeners[kind].start()
                audience.acquisition.finish()
                beamline.start("prefect")
            audience.acquisition.count(runs // 3)

    return inject


for _kind in KINDS:
    fault(f"listen-{_kind}-killed", f"listener to {_kind} killed at random moments", **_OF_KIND[_kind])(_killed(_kind))
    fault(f"listen-{_kind}-prefect", f"Prefect killed, then the listener to {_kind}", **_OF_KIND[_kind])(
        _prefect_killed(_kind)
    )
    for _point, _moment in _AT.items() if _kind != "zmq" else ():
        fault(f"listen-{_kind}-{_point}", f"listener to {_kind} killed {_moment}", runs=_SOME)(
            _killed_at(_kind, _point)
        )


@fault("listen-tiled-server", "Tiled killed, which a listener listens to", runs=_SOME)
def tiled_killed(beamline: Beamline, chance: Random, runs: int) -> None:
    with beamline.idle(), Audience(beamline, "tiled") as audience:
        audience.acquisition.start(runs)
        random_moment(chance, runs)
        beamline.kill("tiled")
        _away(chance)
        beamline.start("tiled")
        audience.acquisition.finish()


@fault("listen-tiled-cache", "the cache of Tiled's stream killed", runs=_SOME)
def cache_killed(beamline: Beamline, chance: Random, runs: int) -> None:
    with beamline.idle(), Audience(beamline, "tiled") as audience:
        audience.acquisition.start(runs)
        random_moment(chance, runs)
        beamline.cache.close()
        try:
            _away(chance)
        finally:
            beamline.cache.start()
        audience.acquisition.finish()


def _blinded(mode: Mode) -> Inject:
    def inject(beamline: Beamline, chance: Random, runs: int) -> None:
        with Audience(beamline, "tiled") as audience:
            audience.acquisition.start(runs)
            random_moment(chance, runs)
            audience.tiled_proxy.mode = mode
            _away(chance)
            audience.tiled_proxy.mode = "pass"
            audience.acquisition.finish()

    return inject


fault("listen-tiled-refused", "Tiled refuses a listener's connections", runs=_SOME)(_blinded("refuse"))
fault("listen-tiled-black-hole", "Tiled accepts, never answers a listener", runs=_SOME)(_blinded("black-hole"))


@fault("listen-kafka-away", "Kafka's broker cuts connections, and refuses others", runs=_SOME)
def kafka_away(beamline: Beamline, chance: Random, runs: int) -> None:
    with Audience(beamline, "kafka") as audience:
        audience.acquisition.start(runs)
        random_moment(chance, runs)
        audience.kafka.go_away()
        _away(chance)
        audience.kafka.come_back()
        audience.acquisition.finish()


@fault("listen-kafka-stopped", "Kafka's broker stopped (SIGSTOP), the listener killed", runs=_SOME)
def kafka_stopped(beamline: Beamline, chance: Random, runs: int) -> None:
    with Audience(beamline, "kafka") as audience:
        audience.acquisition.start(runs)
        random_moment(chance, runs)
        audience.kafka.hang()
        _away(chance)
        audience.listeners["kafka"].kill()
        audience.kafka.go_on()
        audience.listeners["kafka"].start()
        audience.acquisition.finish()


@fault("listen-zmq-proxy", "0MQ's proxy killed", **_OF_KIND["zmq"])
def zmq_killed(beamline: Beamline, chance: Random, runs: int) -> None:
    with Audience(beamline, "zmq") as audience:
        audience.acquisition.count(runs // 3)
        with audience.losses():
            audience.acquisition.start(runs // 3)
            random_moment(chance, runs // 3)
            audience.zmq.close()
            random_moment(chance, runs // 3)
            audience.zmq.start()
            audience.acquisition.finish()
        audience.acquisition.count(runs // 3)


@fault("listen-beside-callback", "listeners of each kind beside a callback, killed in turns", runs=_SOME)
def beside_a_callback(beamline: Beamline, chance: Random, runs: int) -> None:
    with Audience(beamline, *KINDS, callback=True) as audience:
        with audience.losses():
            audience.acquisition.start(runs)
            for kind in chance.sample(KINDS, len(KINDS)):
                random_moment(chance, runs // 3)
                audience.listeners[kind].kill()
                audience.listeners[kind].start()
            audience.acquisition.finish()
        audience.acquisition.count(2)
