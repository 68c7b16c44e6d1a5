"""What the local stack's Tiled server does otherwise than Tiled as it comes."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pyarrow
from tiled.storage import parse_storage

from bluesky_prefect.stack.tiled_app import take_turns


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
