"""Journals that released versions left are read."""

import numpy as np
import pytest

from bluesky_prefect.journal import JournalDirectory, JournalReader
from tests.data.record_journals import JOURNALS, documents

RECORDED = sorted(path for path in JOURNALS.iterdir() if path.is_dir())


def read(path):
    reader = JournalReader(path)
    try:
        return list(reader.documents())
    finally:
        reader.close()


@pytest.mark.parametrize("folder", RECORDED, ids=lambda path: path.name)
@pytest.mark.parametrize("uid", ["whole", "cut"])
def test_what_a_released_version_left_is_read(folder, uid):
    assert {one.run_uid for one in JournalDirectory(folder).waiting()} == {"whole", "cut"}
    written = list(documents(uid))
    expected = written if uid == "whole" else written[:-2]  # without its stop; what came before it was cut short
    found = read(folder / f"{uid}.journal")
    np.testing.assert_equal(found, expected)
    images = [doc["data"]["image"] for name, doc in found if name == "event"]
    assert [image.dtype for image in images] == [np.dtype("<u2")] * 2


def test_there_are_journals_of_a_released_version():
    assert RECORDED
