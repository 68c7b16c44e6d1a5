"""The interface of a service that the stack runs."""

import sys
from typing import Protocol


class Service(Protocol):
    """A service of the stack: how to start it, and how to see that it works."""

    name: str
    """Key in the state file, and stem of the log's name."""

    title: str
    """Its name for people."""

    @property
    def port(self) -> int | None:
        """The port it listens on, if any."""
        ...

    @property
    def umask(self) -> int:
        """The umask it runs with; -1 keeps the user's."""
        ...

    @property
    def niceness(self) -> int:
        """Niceness beyond that of the process that starts it, 0 to 19."""
        ...

    def command(self) -> list[str]:
        """Return the command line; it holds no secret, since everybody can list processes."""
        ...

    def environment(self) -> dict[str, str]:
        """Return the variables that it needs on top of what it inherits."""
        ...

    def prepare(self) -> None:
        """Write what it needs before it starts."""
        ...

    def is_ready(self) -> bool:
        """Tell whether it does its work; may ask it over the network, for a few seconds at most."""
        ...


def serve_command(factory: str, port: int) -> list[str]:
    """Return the command line that serves the application which ``module:function`` makes."""
    return [sys.executable, "-P", "-m", "bluesky_prefect.stack._serve", factory, str(port)]
