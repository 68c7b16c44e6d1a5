import pytest

from bluesky_prefect.session._spool import Spool
from bluesky_prefect.tiled_api import read_documents
from tests.services.full_disk import full_disk

DOCUMENTS = [("start", {"uid": "u", "time": 0.0}), *(("event", {"number": n, "data": "x" * 60}) for n in range(50))]


@pytest.mark.parametrize("room", [0, 1, 500, 1003, 4000])
def test_a_disk_that_fills_in_the_middle_of_a_document_costs_none(tmp_path, room):
    spool = Spool(tmp_path / "runs" / "u.msgpack")
    with full_disk(room):
        for name, doc in DOCUMENTS:
            spool.write(name, doc)
        assert spool.keep() is None
        assert [tuple(one) for one in spool.documents()] == DOCUMENTS
    path = spool.keep()
    assert [tuple(one) for one in read_documents(path)] == DOCUMENTS


def test_what_is_discarded_is_gone(tmp_path):
    spool = Spool(tmp_path / "u.msgpack")
    spool.write(*DOCUMENTS[0])
    spool.discard()
    assert list(tmp_path.iterdir()) == []
