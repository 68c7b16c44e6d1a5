"""What the local stack's Tiled server does otherwise than Tiled as it comes."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pyarrow
import pytest
from tiled.storage import parse_storage

from bluesky_prefect.stack.workarounds._tiled_app import ConfinedUi, take_turns


def test_threads_that_use_tables_at_once_do_not_meet(tmp_path):
    # Tiled as it comes hangs here, or crashes.
    storage = parse_storage(f"duckdb:///{tmp_path / 'tables.duckdb'}")
    take_turns(storage)

    def write_and_read(number):
        with closing(storage.connect()) as connection:
            with connection.cursor() as cursor:
                cursor.execute("CREATE TABLE IF NOT EXISTS points (number INTEGER)")
            with connection.cursor() as cursor:
                row = pyarrow.table({"number": pyarrow.array([number], pyarrow.int32())})
                cursor.adbc_ingest("points", row, mode="append")
            connection.commit()
        return numbers()

    def numbers():
        with closing(storage.connect()) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT number FROM points")
            return cursor.fetch_arrow_table()["number"].to_pylist()

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(write_and_read, range(100)))
    assert all(number in numbers for number, numbers in enumerate(found))
    assert sorted(numbers()) == list(range(100))
    storage.dispose()


@pytest.fixture
def anyio_backend():
    return "asyncio"


WAYS_OUT = ["/ui/../x", "/ui/a/../../x", "/ui/..", "/ui//..//x", "/ui/a\\..\\x"]


@pytest.mark.anyio
@pytest.mark.parametrize("path", [*WAYS_OUT, "/ui//etc/passwd", "//ui//etc/passwd", "/ui/index.html", "/api/v1/"])
async def test_no_path_leads_out_of_the_folder_of_the_ui(path):
    asked = []

    async def tiled(scope, receive, send):
        asked.append(scope["path"])

    async def send(message):
        asked.extend([message["status"]] if "status" in message else [])

    await ConfinedUi(tiled)({"type": "http", "path": path, "method": "GET", "headers": []}, None, send)
    expected = 404 if path in WAYS_OUT else "/" + path.replace("//", "/").lstrip("/")
    assert asked == [expected]
