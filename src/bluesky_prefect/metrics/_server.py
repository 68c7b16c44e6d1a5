"""Serves metrics and health over HTTP."""

import ipaddress
import json
import logging
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import Any
from urllib.parse import urlsplit

from bluesky_prefect.core import LOOPBACK_NAMES, Settings, error_and_place, error_line
from bluesky_prefect.journal import JournalDirectory
from bluesky_prefect.metrics._facts import Facts, FactsReader
from bluesky_prefect.metrics._followed_flow_runs import FollowedFlowRuns
from bluesky_prefect.metrics._server_watch import ServerWatch
from bluesky_prefect.metrics._signals import Reachability, Signals
from bluesky_prefect.outbox import Outbox

logger = logging.getLogger(__name__)

# A client that sends nothing, or reads nothing, keeps a thread no longer.
_CLIENT_TIMEOUT_S = 10.0
# Strangers who send a letter now and then take no more threads and connections than these.
_MOST_CLIENTS = 32


@contextmanager
def serve_metrics(
    settings: Settings,
    signals: Signals,
    outboxes: Sequence[Outbox],
    *,
    process: str,
    journals: JournalDirectory | None = None,
    deployments: Sequence[str] = (),
    ask_tiled: Callable[[], None] | None = None,
) -> Iterator[int | None]:
    """Serve the metrics and the health of this process while the block runs, if the setting `metrics_port` is set.

    If they cannot be served, a line in the log says why, and the block runs all the same.

    Parameters
    ----------
    signals : Signals
        Those of the process's `Forwarder`, and of its `JournalCourier` if it has one.
    outboxes : sequence of Outbox
        What the process sends from.
    process : str
        What the process is: ``courier``, say.
    journals : JournalDirectory, optional
        What it takes to Tiled.
    deployments : sequence of str, optional
        Those on the beamline's list: their metrics are there before their first run.
    ask_tiled : callable, optional
        Asks Tiled whether it is there, and signals what came of it; called every 15 s.

    Yields
    ------
    int or None
        The port; None if nothing is served.
    """
    if settings.metrics_port is None:
        yield None
        return
    with ExitStack() as opened:
        facts = FactsReader(outboxes, settings.state_directory, journals)
        opened.callback(facts.close)
        followed = FollowedFlowRuns()
        labels = {"beamline": settings.beamline} if settings.beamline else None
        try:
            # Only here: who serves none does without prometheus-client.
            from prometheus_client import CollectorRegistry, MetricsHandler, ProcessCollector

            from bluesky_prefect.metrics._collector import MetricsCollector, problems

            collector = MetricsCollector(
                signals, facts, followed, process=process, deployments=deployments, labels=labels
            )
            registry = CollectorRegistry()
            registry.register(collector)
            ProcessCollector(registry=registry)

            def health() -> dict[str, Any]:
                read = facts.read()
                return _health(process, problems(signals, read), signals, read)

            server = _Server(settings, _handler(MetricsHandler.factory(registry), health, settings.metrics_host))
        except ImportError as error:
            logger.warning("Metrics are not served: %s. Install bluesky-prefect[metrics].", error_line(error))
            yield None
            return
        except OSError as error:
            logger.warning(
                "Metrics are not served at %s, port %d: %s. Choose another BLUESKY_PREFECT_METRICS_PORT; 0 takes a "
                "free one.",
                settings.metrics_host,
                settings.metrics_port,
                error.strerror or error,
            )
            yield None
            return
        opened.callback(server.server_close)
        opened.callback(server.shutdown)
        threading.Thread(target=server.serve_forever, args=[0.1], name="metrics-server", daemon=True).start()
        signals.listen(collector.sent)
        watch = ServerWatch(settings, signals, followed, collector.became, ask_tiled)
        watch.start()
        opened.callback(watch.close)
        logger.info("Metrics are at http://%s:%d/metrics", _in_url(settings.metrics_host), server.port)
        yield server.port


class _Server(ThreadingTCPServer):
    """Answers each request on a thread of its own."""

    allow_reuse_address = True  # what a courier before this one has answered may not be over yet
    daemon_threads = True
    request_queue_size = 16

    def __init__(self, settings: Settings, handler: type[BaseHTTPRequestHandler]) -> None:
        found = socket.getaddrinfo(
            settings.metrics_host, settings.metrics_port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        self.address_family, _, _, _, address = found[0]
        self._clients: dict[socket.socket, None] = {}
        super().__init__(address, handler)  # pyright: ignore[reportArgumentType] - of either family

    @property
    def port(self) -> int:
        """The port, whichever was asked for."""
        return self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer on a thread; beyond a number of clients, the one that has been here longest has to go."""
        self._clients[request] = None
        if len(self._clients) > _MOST_CLIENTS:
            longest = next(iter(self._clients))
            self._clients.pop(longest, None)  # it is not to be chosen again while its thread ends
            _cut(longest)
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer a client, and forget it."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._clients.pop(request, None)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what went wrong with a request, mostly that its client went away."""
        error = sys.exception()
        logger.debug("A request for metrics or health was not answered: %s", error and error_and_place(error))


def _cut(request: socket.socket) -> None:
    with suppress(OSError):  # it is over
        request.shutdown(socket.SHUT_RDWR)


def _handler(metrics: type[BaseHTTPRequestHandler], health: Callable[[], dict[str, Any]], host: str) -> type[Any]:
    class Handler(metrics):
        timeout = _CLIENT_TIMEOUT_S

        def do_GET(self) -> None:  # noqa: N802 - http.server's name
            path = urlsplit(self.path).path
            address: Any = self.server.server_address
            if not _may_ask(self.headers.get("Host", ""), address[0], host):
                self._answer(403, "text/plain", "This is for programs of this machine.")
            elif path == "/metrics":
                super().do_GET()  # pyright: ignore[reportAttributeAccessIssue] - MetricsHandler's
            elif path == "/healthz":
                answer = health()
                self._answer(200 if answer["ok"] else 503, "application/json", json.dumps(answer))
            else:
                self._answer(404, "text/plain", "There are /metrics and /healthz.")

        def _answer(self, status: int, content_type: str, text: str) -> None:
            body = f"{text}\n".encode()
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler


def _may_ask(named: str, served_at: str, host: str) -> bool:
    """Tell whether a client may read what is served to this machine alone.

    A web page may lead a browser of this machine here by a name of its own (DNS rebinding).
    """
    if not named or not ipaddress.ip_address(served_at).is_loopback:
        return True
    name = named.rpartition(":")[0] if named.rpartition(":")[2].isdecimal() else named
    return name.strip("[]").lower() in {*LOOPBACK_NAMES, host.lower(), served_at}


def _health(process: str, problems: list[str], signals: Signals, facts: Facts) -> dict[str, Any]:
    def server(one: Reachability) -> dict[str, Any] | None:
        return one.last and asdict(one.last)

    return {
        "ok": not problems,
        "process": process,
        "problems": problems,
        "prefect": server(signals.prefect),
        "tiled": server(signals.tiled),
        "waiting": facts.count("waiting"),
        "dead": facts.count("dead"),
        "journals": facts.journals and facts.journals.waiting,
    }


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
