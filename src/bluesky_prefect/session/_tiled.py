"""The session's way to Tiled, which may come and go."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from bluesky_prefect.core import (
    REFUSED_STATUSES,
    BlueskyPrefectError,
    ConfigurationError,
    Interrupted,
    Settings,
    StackError,
    TiledUnavailable,
    error_line,
    one_line,
    without_secrets,
)
from bluesky_prefect.stack import PATIENCE_S, Service, explain_absence, probe, request_json, use_services
from bluesky_prefect.tiled_api import (
    address_and_key,
    connect,
    container_at,
    has_raw_spec,
    server_address,
    without_raw_spec,
)

if TYPE_CHECKING:
    from bluesky_tiled_plugins import CatalogOfBlueskyRuns
    from tiled.client.container import Container

_CONNECT_TIMEOUT_S = 1.0
# Silence for this long is an outage; Tiled's own 30 s, twice, would hold a scan for a minute.
_REQUEST_TIMEOUT_S = 15.0
# SQLite counts no further.
_MAX_SCAN_ID = 2**62


class TiledConnection:
    """The Tiled server that the settings name, connected to when it is first needed.

    While they name none, a local stack that has been started since is looked for each time.
    """

    def __init__(self, settings: Settings):
        self._settings = settings
        self._root: Container | None = None

    @property
    def url(self) -> str:
        """Address of the server without what may be secret in it; empty if the settings name none."""
        return without_secrets(server_address(self._settings))

    def problem(self, patience_s: float = 0.0) -> str:
        """Return why the server does not answer, or an empty string if it does; see `probe`."""
        if not self._is_named():
            self._settings = use_services()
        if not self._is_named():
            return "none is named, no local stack runs"
        uri = server_address(self._settings)
        # A profile without an address is a server inside this process.
        return probe(uri, patience_s=patience_s).problem if uri else ""

    def require(self) -> Settings:
        """Return the settings that name the server, which answers.

        Raises
        ------
        TiledUnavailable
            If it does not.
        """
        # Somebody asks for something: a server that is busy for a moment is not away.
        if problem := self.problem(PATIENCE_S):
            absent = Service("Tiled", self.url, problem, consequence="", remedy="")
            raise TiledUnavailable(explain_absence(absent, self._settings))
        return self._settings

    def root(self) -> "Container":
        """Return the client of the server's root.

        Raises
        ------
        TiledUnavailable
            If the server does not answer.
        ConfigurationError
            If the server wants an API key and has none, or the profile is unknown.
        """
        if self._root is None:
            self.require()
            with self._key_explained():
                self._root = self._connect()
        return self._root

    def raw(self) -> "CatalogOfBlueskyRuns":
        """Return the client of the catalog of Bluesky runs; raises as `root`, and if there is no such catalog."""
        with self._key_explained():
            return container_at(self.root(), self._settings.raw_container, self.url)  # type: ignore[return-value]  # by its spec

    def catalog_problem(self) -> str:
        """Return what the catalog of runs lacks, or an empty string; of a server in a profile nothing is known.

        Asks without Tiled's client, which costs a session's start a second.

        Raises
        ------
        ConfigurationError
            If the server refuses the API key, or wants one, or has no such catalog.
        """
        if not self._settings.tiled_uri:
            return ""
        path = self._settings.raw_container.strip("/")
        page, headers = self._catalog_page("metadata")
        if probe(page, authorization=headers.get("Authorization", "")).refused:
            wants = "refuses the API key: check" if headers else "wants an API key: set"
            raise ConfigurationError(f"Tiled at {self.url} {wants} TILED_API_KEY")
        try:
            found = request_json(page, headers=headers, timeout_s=2.0)
            specs = found["data"]["attributes"].get("specs") or ()
            if has_raw_spec((spec["name"], spec["version"]) for spec in specs):
                return ""
        except StackError as error:
            raise ConfigurationError(f"Tiled at {self.url} shows no container {path!r}: {error}") from error
        except ValueError:  # it repeats the header, and the key in it
            raise ConfigurationError(
                f"Tiled at {self.url} cannot be asked: check TILED_API_KEY for line ends and special characters"
            ) from None
        except (LookupError, TypeError, AttributeError):
            raise ConfigurationError(
                f"What answers at {self.url} is not Tiled: check BLUESKY_PREFECT_TILED_URI"
            ) from None
        return without_raw_spec(path, self.url)

    def newest_scan_id(self) -> int | None:
        """Return the scan id of the run that was written to the catalog last, 0 if it has none; None if nobody answers.

        Takes a second at most, and costs no import of Tiled's client.
        """
        if not self._settings.tiled_uri:
            return None
        page, headers = self._catalog_page("search")
        wanted = {"page[limit]": 1, "sort": "-", "fields": "metadata", "select_metadata": "{scan_id: start.scan_id}"}
        try:
            found = request_json(f"{page}?{urlencode(wanted)}", headers=headers, timeout_s=_CONNECT_TIMEOUT_S)
            [newest] = found["data"]
            scan_id = newest["attributes"]["metadata"]["selected"]["scan_id"]
        except StackError:
            return None
        except (LookupError, TypeError, ValueError):
            return 0
        return scan_id if type(scan_id) is int and 0 < scan_id < _MAX_SCAN_ID else 0

    def _catalog_page(self, kind: str) -> tuple[str, dict[str, str]]:
        """Return an address about the catalog of runs, and the headers to ask it with."""
        secret = self._settings.tiled_api_key
        uri = self._settings.tiled_uri or ""
        address, key = address_and_key(uri, secret.get_secret_value() if secret else None)
        path = quote(self._settings.raw_container.strip("/"))
        page = f"{address.partition('/api/v1')[0].rstrip('/')}/api/v1/{kind}/{path}"
        return page, {"Authorization": f"Apikey {key}"} if key else {}

    def close(self) -> None:
        """Close the network connections; the next use opens them again."""
        if self._root is not None:
            self._root.context.close()
            self._root = None

    @contextlib.contextmanager
    def _key_explained(self) -> Iterator[None]:
        import httpx

        try:
            yield
        except httpx.HTTPStatusError as error:
            if error.response.status_code not in REFUSED_STATUSES:
                raise
            raise ConfigurationError(f"Tiled at {self.url} refuses the API key: check TILED_API_KEY") from error

    def _is_named(self) -> bool:
        return self._settings.tiled_uri is not None or self._settings.tiled_profile is not None

    def _connect(self) -> "Container":
        import httpx

        secret = self._settings.tiled_api_key
        timeout = httpx.Timeout(_REQUEST_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S)
        key = secret.get_secret_value() if secret else None
        return connect(self._settings, key, setting="TILED_API_KEY", timeout=timeout)


class LookupFailed(BlueskyPrefectError, KeyError, IndexError, ValueError):
    """Tiled has nothing under a key, or several; an error of those kinds, as its own clients raise them."""

    def __str__(self) -> str:
        """Return the message, which a `KeyError` would quote."""
        return str(self.args[0])


class ClientMissing(TiledUnavailable, AttributeError):
    """There is no client to ask for an attribute.

    An `AttributeError`, so that what asks an object for its kind by looking for attributes is not stopped.
    """


# What a queue server looks for on each object of the startup files, to know which are devices: it must not wait for
# Tiled each time it opens an environment, or lists devices anew. No catalog of Tiled has any of them.
_OF_DEVICES = frozenset({"children", "complete", "describe", "kickoff", "name", "read"})


class LazyClient:
    """A Tiled client that connects when it is used, and says what is missing while it cannot.

    What goes wrong is an error of this package, which IPython shows as a line.

    Parameters
    ----------
    connect : callable
        Returns the real client or raises a `BlueskyPrefectError`.
    require : callable
        Raises a `TiledUnavailable` that says what to do, if the server does not answer.
    """

    def __init__(self, connect: Callable[[], Any], require: Callable[[], Any] = lambda: None):
        self._connect = connect
        self._require = require

    def __getattr__(self, name: str) -> Any:
        # IPython and copy look for private names on everything.
        if name.startswith("_") or name in _OF_DEVICES:
            raise AttributeError(f"A catalog of Tiled has no {name!r}")
        try:
            with self._explained():
                client = self._connect()
        except BlueskyPrefectError as error:
            raise ClientMissing(str(error)) from None
        return getattr(client, name)

    def __getitem__(self, key: Any) -> Any:
        with self._explained():
            client = self._connect()
            try:
                return client[key]
            except (KeyError, IndexError, ValueError) as error:
                reason = error.args[0] if error.args else type(error).__name__
                raise LookupFailed(f"Tiled has no {one_line(repr(key), 60)} there: {reason}") from None

    def __iter__(self) -> Iterator[Any]:
        with self._explained():
            return iter(self._connect())

    def __len__(self) -> int:
        with self._explained():
            return len(self._connect())

    def __contains__(self, key: object) -> bool:
        with self._explained():
            return key in self._connect()

    def __repr__(self) -> str:
        try:
            with self._explained():
                return repr(self._connect())
        except BlueskyPrefectError as error:
            return f"<no Tiled client: {error}>"

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        import httpx

        try:
            yield
        except httpx.TransportError as error:
            self._require()
            raise TiledUnavailable(f"Tiled did not answer ({error_line(error)}). Try again.") from None
        except Interrupted:
            raise
        except KeyboardInterrupt:
            raise Interrupted from None
