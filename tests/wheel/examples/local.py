"""Start the local stack, look at it, and stop it."""

import socket
import subprocess


def said(*arguments: str) -> str:
    done = subprocess.run(["bluesky-prefect", *arguments], stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL)
    print(done.stdout)
    assert done.returncode == 0, arguments
    return done.stdout


with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
    ports = [str(free.getsockname()[1]) for free in (one, other)]
try:
    said("up", "--tiled-port", ports[0], "--prefect-port", ports[1])
    said("status")
finally:
    said("down")
