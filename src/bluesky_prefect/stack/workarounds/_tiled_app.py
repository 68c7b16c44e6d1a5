"""The Tiled server's application, with indexes on scan ids and on the times of runs, and tables used in turn.

Tiled hands the name of a key to SQLite apart from the query, where no index can be chosen by it: each search by time or
scan id would read every run. On PostgreSQL an index is enough, see `runs_between`.

Tiled 0.2.20 lets all threads use one connection to DuckDB at once. That ends the transaction of another one, corrupts
memory, or hangs in a commit for ever, with the catalog locked.
"""

import operator
import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bluesky_prefect.core import StackError
from bluesky_prefect.stack._sign_in_pages import SignIn
from bluesky_prefect.stack._tiled import KEY

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_EXPRESSIONS = {
    "start.time": """json_extract(metadata, '$."start"."time"')""",
    "stop.time": """json_extract(metadata, '$."stop"."time"')""",
    "start.scan_id": """json_extract(metadata, '$."start"."scan_id"')""",
}
_UI = re.compile(r"/+ui/+(.*)", re.DOTALL)
_BUSY_S = 30.0
# Longer than the tables of any run take, shorter than clients of Tiled wait.
_TURN_S = 20.0


def app_factory() -> "ASGIApp":
    """Return Tiled's own application, which searches as the indexes are made, and uses its tables in turn.

    Of the files of this machine it serves those of its UI alone. A page signs browsers in.
    """
    from tiled.catalog.adapter import CatalogNodeAdapter
    from tiled.queries import Comparison, Eq
    from tiled.server.app import app_factory as tiled_app_factory
    from tiled.storage import _STORAGE

    for kind in (Comparison, Eq):
        CatalogNodeAdapter.register_query(kind, compared)
    app = tiled_app_factory()
    for storage in _STORAGE.values():
        if getattr(storage, "dialect", "") == "duckdb":
            take_turns(storage)
    key = os.environ[KEY]
    return SignIn(ConfinedUi(app), f"Apikey {key}", home="/ui/", reads_by_cookie=True)


class ConfinedUi:
    """Tiled's application, without the way out of the folder of its UI.

    Tiled 0.2.20 serves ``/ui/PATH`` without a key, and PATH may be absolute, or lead upwards: any file that this user
    may read, the keys of the stack among them.
    """

    def __init__(self, app: "ASGIApp") -> None:
        self._app = app

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Have Tiled answer, or refuse a path that leads out of the folder."""
        from starlette.responses import PlainTextResponse

        app = self._app
        if scope["type"] == "http" and (wanted := _UI.match(scope["path"])):
            if ".." in wanted[1].replace("\\", "/").split("/"):
                app = PlainTextResponse("There is no such page.\n", 404)
            else:
                # Not absolute: pages of the UI have paths such as /ui//metadata/a/b/c.
                scope = {**scope, "path": f"/ui/{wanted[1]}"}
        await app(scope, receive, send)


def take_turns(storage: Any) -> None:
    """Have threads wait for each other's use of a DuckDB storage of Tiled's, which nobody has used yet."""
    from sqlalchemy.pool import QueuePool

    pool = QueuePool(storage._adbc_connection.adbc_clone, pool_size=1, max_overflow=0, timeout=_TURN_S)
    storage.__dict__["_connection_pool"] = pool  # in place of the one that Tiled makes at the first use


def index_runs(catalog: Path) -> None:
    """Make the indexes in a catalog's database, if they are not there; raises `StackError` if the database refuses."""
    try:
        with closing(sqlite3.connect(catalog, timeout=_BUSY_S)) as database:
            for key, expression in _EXPRESSIONS.items():
                name = f"bluesky_prefect_{key.replace('.', '_')}"
                database.execute(f"CREATE INDEX IF NOT EXISTS {name} ON nodes (parent, {expression})")
    except sqlite3.Error as error:
        raise StackError(
            f"The Tiled catalog {catalog} takes no index ({error}): is another program using it?"
        ) from error


def compared(query: Any, tree: Any) -> Any:
    """Return `tree` narrowed to the nodes that a comparison holds for, as Tiled asks of a query's translation."""
    from sqlalchemy import Float, literal_column
    from tiled.catalog.adapter import binary_op
    from tiled.queries import Eq

    compare = (
        operator.eq if isinstance(query, Eq) else getattr(operator, query.operator.value)
    )  # lt, le, gt, ge in both
    expression = _EXPRESSIONS.get(query.key)
    if expression is None or type(query.value) not in (int, float):
        return binary_op(query, tree, compare)
    number = literal_column(expression.replace("metadata", "nodes.metadata"), Float)
    return tree.new_variation(conditions=[*tree.conditions, compare(number, query.value)])
