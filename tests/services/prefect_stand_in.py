"""Stands in for Prefect's API where only its speed matters: creates flow runs as fast as they are asked for.

``python -m tests.services.prefect_stand_in`` serves on a free port of loopback and prints its address.
"""

import json
import threading
import time
import uuid
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

MOMENT = "2026-01-01T00:00:00Z"
DEPLOYMENT_ID, FLOW_ID = str(uuid.uuid4()), str(uuid.uuid4())


class PrefectStandIn:
    """An API that knows every deployment and creates one flow run for each idempotency key.

    Attributes
    ----------
    created : dict
        Idempotency keys of the flow runs created, in order, each with the time it was created at in seconds.
    repeated : int
        How many requests asked for a flow run that was there already.
    required : list of str
        Parameters that every deployment requires.
    before_create : callable
        Called for each request, before its flow run is created.
    asked : list of str
        The idempotency key of each request to create a flow run so far.
    troubles : dict
        By idempotency key, the status that the creation of a flow run is answered with; 0 for no answer at all.
    down : int or None
        The status that everything is answered with.
    retry_after_s : int or None
        What goes with those.
    placed : dict
        The work pool and the work queue that every deployment is on; on none, if it is empty.
    queues : list of str or int
        Work queues of each work pool, or the status that whoever asks for them is answered with.
    chosen : dict
        By idempotency key, the work queue that a flow run was created for.
    states : dict
        By id, the type of the state of a flow run.
    filters : list of dict
        The filter of each request for flow runs.
    """

    def __init__(self) -> None:
        self.created: dict[str, float] = {}
        self.repeated = 0
        self.required = ["ref"]
        self.before_create: Callable[[], Any] = lambda: None
        self.asked: list[str] = []
        self.troubles: dict[str, int] = {}
        self.down: int | None = None
        self.retry_after_s: int | None = None
        self.placed: dict[str, str] = {}
        self.queues: list[str] | int = []
        self.chosen: dict[str, str | None] = {}
        self.states: dict[str, str] = {}
        self.filters: list[dict[str, Any]] = []
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = -1

            def do_GET(self) -> None:
                stand_in.answer(self, stand_in.get(self.path))

            def do_POST(self) -> None:
                content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                key = content.get("idempotency_key")
                if key is not None:
                    stand_in.asked.append(key)
                if self.path.endswith("/queues/filter") and isinstance(stand_in.queues, int):
                    stand_in.refuse(self, stand_in.queues)
                elif key in stand_in.troubles:
                    stand_in.refuse(self, stand_in.troubles[key])
                else:
                    stand_in.answer(self, stand_in.post(self.path, content))

            def log_message(self, *args: Any) -> None:
                pass

        self._release = threading.Event()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/api"

    def start(self) -> Self:
        """Serve on a thread, until it is closed."""
        threading.Thread(target=self.serve, daemon=True).start()
        return self

    def serve(self) -> None:
        self._server.serve_forever(poll_interval=0.05)

    def close(self) -> None:
        self._release.set()
        self._server.shutdown()
        self._server.server_close()

    def get(self, path: str) -> Any:
        if path == "/api/created":
            return {"created": self.created, "repeated": self.repeated}
        if path.startswith("/api/deployments/name/"):
            name = path.rpartition("/")[2]
            properties = {parameter: {} for parameter in self.required}
            schema = {"type": "object", "properties": properties, "required": self.required}
            moments = {"created": MOMENT, "updated": MOMENT}
            return {
                "id": DEPLOYMENT_ID,
                "flow_id": FLOW_ID,
                "name": name,
                "parameter_openapi_schema": schema,
                **self.placed,
                **moments,
            }
        return None

    def post(self, path: str, content: dict[str, Any]) -> Any:
        if path.endswith("/queues/filter"):
            ids = {"id": FLOW_ID, "work_pool_id": FLOW_ID}
            return [{"name": name, "created": MOMENT, "updated": MOMENT, **ids} for name in self.queues]
        if path == "/api/flow_runs/filter":
            self.filters.append(content["flow_runs"])
            asked = (content["flow_runs"].get("id") or {}).get("any_") or ()
            found = [(one, {"type": self.states[one], "timestamp": MOMENT}) for one in asked if one in self.states]
            return [{"id": one, "flow_id": FLOW_ID, "name": one, "state": state} for one, state in found]
        if path != f"/api/deployments/{DEPLOYMENT_ID}/create_flow_run":
            return None
        self.before_create()
        key = content["idempotency_key"]
        with self._lock:
            self.repeated += key in self.created
            self.created.setdefault(key, time.time())
            self.chosen.setdefault(key, content.get("work_queue_name"))
        flow_run_id = str(uuid.uuid5(uuid.UUID(FLOW_ID), key))
        return {"id": flow_run_id, "flow_id": FLOW_ID, "name": content["name"], "created": MOMENT, "updated": MOMENT}

    def refuse(self, handler: BaseHTTPRequestHandler, status: int) -> None:
        if status == 0:
            self._release.wait(60)
            handler.close_connection = True
            return
        self._send(handler, status, {"detail": "trouble"})

    def answer(self, handler: BaseHTTPRequestHandler, content: Any) -> None:
        if self.down is not None:
            self._send(handler, self.down, {"detail": "trouble"})
        else:
            self._send(
                handler, 404 if content is None else 200, {"detail": "Not Found"} if content is None else content
            )

    def _send(self, handler: BaseHTTPRequestHandler, status: int, content: Any) -> None:
        body = json.dumps(content).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        if status >= 429 and self.retry_after_s is not None:
            handler.send_header("Retry-After", str(self.retry_after_s))
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)


def main() -> None:
    stand_in = PrefectStandIn()
    print(stand_in.url, flush=True)
    stand_in.serve()


if __name__ == "__main__":
    main()
