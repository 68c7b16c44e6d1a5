"""What `deploy` says when Prefect will not have it, from a real HTTP server that says so."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import anyio
import pytest
from prefect import flow
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from bluesky_prefect.core import BlueskyPrefectError
from bluesky_prefect.prefect_api import deploy


@pytest.fixture
def says() -> Iterator[dict[str, int]]:
    """A server that gives everybody the same status."""
    answer = {"status": 200}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(answer["status"])
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    url = f"http://ada:s3cret@127.0.0.1:{server.server_port}/api"
    with temporary_settings({PREFECT_API_URL: url, PREFECT_CLIENT_MAX_RETRIES: 0}):
        yield answer
    server.shutdown()
    server.server_close()


@flow
def some_flow() -> None:
    pass


@pytest.mark.parametrize(
    ("status", "remedy"),
    [(401, "PREFECT_API_AUTH_STRING or PREFECT_API_KEY"), (404, "prefect work-pool create pool"), (409, "409")],
)
def test_a_refused_deployment_is_reported_with_remedy_and_no_password(says, status, remedy):
    says["status"] = status

    with pytest.raises(BlueskyPrefectError, match=remedy) as caught:
        anyio.run(deploy, some_flow, "local", "pool")

    assert "s3cret" not in str(caught.value)
