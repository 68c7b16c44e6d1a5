"""The process of a server of the stack: its application under uvicorn, on a port that no other user can take."""

import sys
from importlib import import_module

from bluesky_prefect.stack._ports import HOST, bind_port


def main(factory: str, port: int) -> None:
    """Serve until told to stop."""
    # Before the imports below, which take seconds.
    bound = bind_port(port)
    import uvicorn

    from bluesky_prefect.stack._door import Door

    module, _, function = factory.partition(":")
    app = Door(getattr(import_module(module), function)())
    config = uvicorn.Config(
        app,
        host=HOST,
        port=port,
        interface="asgi3",
        proxy_headers=False,
        server_header=False,
        # Addresses may hold a key: a browser is sent to Tiled's with ?api_key=...
        access_log=False,
        use_colors=False,
    )
    uvicorn.Server(config).run(sockets=[bound])


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
