"""A Tiled server for as long as a test takes."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from pydantic import SecretStr

from bluesky_prefect.core import Settings
from bluesky_prefect.tiled_api._catalog import Catalog
from bluesky_prefect.tiled_api._connect import address_and_key


@contextmanager
def temporary_catalog(folder: Path) -> Iterator[Catalog]:
    """Have an empty catalog on a Tiled server of this process, until the end of the block.

    Parameters
    ----------
    folder : Path
        Where the server keeps its files; it reads what detectors write there.
    """
    from tiled.server import SimpleTiledServer

    with closing(SimpleTiledServer(folder / "tiled", readable_storage=[folder])) as server:
        address, key = address_and_key(server.uri, None)
        # Not those of the environment: they are another server's.
        settings = Settings(tiled_uri=address, tiled_api_key=SecretStr(key or ""), raw_container="raw")
        with Catalog.connect(settings) as catalog:
            catalog.make_raw()
            yield catalog
