"""Who may see a run may see its results, and nobody else: on a Tiled server with an access policy."""

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import bluesky.plans as bp
import numpy as np
import pytest
from bluesky import RunEngine
from ophyd.sim import hw
from pydantic import SecretStr

from bluesky_prefect.core import RunNotFound, Settings, TiledUnavailable
from bluesky_prefect.courier import JournalCourier
from bluesky_prefect.flows.weather._weather import write_temperatures
from bluesky_prefect.journal import JournalDirectory, RunRecorder
from bluesky_prefect.tiled_api import (
    ArrayColumns,
    Catalog,
    read_stream,
    results_of,
    run_without_streams,
    stream_nodes,
    write_result,
)
from tests.services.prefect_process import wait_until
from tests.services.tiled_with_access import TiledWithAccess
from tests.system.beamline import WaveSignal

PROPOSAL = {"proposal_id": "123456", "title": "Cu, Ag", "type": "General User", "pi_name": "A. Lice"}
PLACE = {"name": "", "latitude": 1.0, "longitude": 2.0, "timezone": "UTC", "source": "test"}
DAY = {"date": "2026-05-01", "unit": "celsius", "sunrise": "", "sunset": ""}
WEATHER = {**PLACE, **DAY, "hours": ["2026-05-01T00:00"], "temperatures": [1.0]}


@pytest.fixture(scope="module")
def tiled(tmp_path_factory) -> Iterator[TiledWithAccess]:
    proposals = {"proposal_A": ["alice"], "proposal_B": ["bob"]}
    with closing(TiledWithAccess(tmp_path_factory.mktemp("tiled"), proposals, lent="lent")) as server:
        yield server


@pytest.fixture(scope="module")
def seen_by(tiled) -> Iterator:
    """Return what a user, or the service, sees of Tiled."""
    with ExitStack() as opened:

        def connect(user: str) -> Catalog:
            settings = Settings(tiled_uri=tiled.uri, tiled_api_key=SecretStr(tiled.keys[user]))
            return opened.enter_context(Catalog.connect(settings))

        connect("service").make_raw()
        yield connect


@pytest.fixture(scope="module")
def take(tiled, seen_by, tmp_path_factory):
    """Return a function that does a scan as a session does, with a courier that has the service's key."""
    settings = Settings(state_directory=tmp_path_factory.mktemp("state"))
    engine, devices = RunEngine(context_managers=[]), hw()
    wave = WaveSignal(name="wave", value=np.arange(5.0))
    with closing(RunRecorder(settings.journals_path)) as recorder, _courier(settings, seen_by("service")):
        engine.subscribe(recorder)

        def take(**metadata) -> str:
            [uid] = engine(bp.scan([devices.det, wave], devices.motor, -1, 1, 3), **metadata)
            wait_until(lambda: not JournalDirectory(settings.journals_path).waiting())
            return uid

        yield take


@contextmanager
def _courier(settings: Settings, catalog: Catalog) -> Iterator[None]:
    courier = JournalCourier(settings, catalog.raw_for_writing)
    courier.start()
    yield
    courier.close(30)


def _run(catalog: Catalog, uid: str):
    node = catalog.find(uid)
    run = run_without_streams(node)
    run.streams = [read_stream(stream, ArrayColumns(None, 0)) for stream in stream_nodes(node)]
    return run


@pytest.fixture(scope="module")
def uid(take, seen_by):
    uid = take(
        tiled_access_tags=["proposal_A"], proposal=PROPOSAL, cycle="2026-1", data_session="pass-123456", sample="Cu"
    )
    service = seen_by("service")
    run = _run(service, uid)
    write_result(service, run, "fit", [1.0, 2.0], {})
    write_temperatures(service, run, WEATHER)
    return uid


def test_a_user_with_the_tag_sees_the_run_with_all_its_data_and_the_results(uid, seen_by):
    alice = seen_by("alice")
    run = _run(alice, uid)
    assert run.access_tags == ["proposal_A"]
    assert run.table()["motor"].tolist() == [-1, 0, 1]
    assert [list(values) for values in run.table()["wave"]] == [[0, 1, 2, 3, 4]] * 3
    assert set(results_of(alice, uid)) == {f"processed/fit-{uid}", f"processed/temperature-{uid}"}
    assert alice.at(f"processed/fit-{uid}").read().tolist() == [1, 2]


@pytest.mark.parametrize("user", ["bob", "alice"])
def test_a_user_without_the_tag_sees_neither_the_run_nor_the_results(user, uid, take, seen_by):
    if user == "alice":
        uid = take(tiled_access_tags=["proposal_B"])
        write_result(seen_by("service"), _run(seen_by("service"), uid), "fit", [1.0], {})
    catalog = seen_by(user)
    with pytest.raises(RunNotFound):
        catalog.find(uid)
    assert results_of(catalog, uid) == {}
    assert not [key for key in catalog.processed() if uid in key]
    for path in (f"raw/{uid}/primary", f"processed/fit-{uid}", f"processed/temperature-{uid}"):
        assert not catalog.context.http_client.get(f"{catalog.context.api_uri}metadata/{path}").is_success
    array = f"{catalog.context.api_uri}array/full/processed/fit-{uid}"
    assert catalog.context.http_client.get(array).status_code == 404


def test_a_result_carries_the_proposal_the_cycle_and_the_data_session_of_its_run(uid, seen_by):
    for about in results_of(seen_by("alice"), uid).values():
        assert (about["proposal"], about["cycle"], about["data_session"]) == (PROPOSAL, "2026-1", "pass-123456")
        assert "sample" not in about


def test_a_result_of_a_run_without_tags_is_for_the_service_alone_as_its_run_is(take, seen_by):
    """Tiled tags such a run with its writer, and lets nobody give this tag to anything."""
    service, uid = seen_by("service"), take()
    write_result(service, _run(service, uid), "fit", [1.0], {})
    assert set(results_of(service, uid)) == {f"processed/fit-{uid}"}
    assert results_of(seen_by("alice"), uid) == {}


def test_a_tag_that_the_service_may_not_give_is_named(seen_by):
    documents = {"start": {"uid": "lent-run", "time": 0}, "stop": {"exit_status": "success"}}
    seen_by("admin").raw.create_container("lent-run", metadata=documents, access_tags=["lent"])
    service = seen_by("service")
    with pytest.raises(TiledUnavailable, match=r"refuses the access tags .*not an owner of tag='lent'"):
        write_result(service, _run(service, "lent-run"), "fit", [1.0], {})
