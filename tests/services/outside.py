"""HTTP servers on loopback that answer as Open-Meteo and catfact.ninja do, or misbehave on demand."""

import datetime
import json
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.services.loopback import Loopback

SYMBOLS = {"fahrenheit": "°F", "celsius": "°C"}


class Outside(Loopback):
    """A service on loopback.

    Parameters
    ----------
    answer : callable
        Returns the JSON document for a path and a query.

    Attributes
    ----------
    mode : str
        ``well``, ``hang`` (accepts, never answers), ``drip`` (a byte now and then), ``500``, ``400``,
        ``garbage`` (not JSON), or ``other`` (JSON of another kind).
    requests : list
        Path and query of each request so far.
    on_request : callable
        Called for each request, before it is answered.
    body : bytes
        The answer, in place of the document.
    redirect : str
        Where the next request is sent on to.
    """

    def __init__(self, answer: Any) -> None:
        self.mode = "well"
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.on_request: Any = lambda: None
        self.body = b""
        self.redirect = ""
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                query = {name: values[0] for name, values in parse_qs(parts.query).items()}
                service.requests.append((parts.path, query))
                service.on_request()
                service.respond(self, parts.path, query, answer)

            def log_message(self, *args: Any) -> None:
                pass

        super().__init__(Handler)

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def respond(self, handler: Any, path: str, query: dict[str, str], answer: Any) -> None:
        status, body = 200, b""
        match self.mode:
            case "hang":
                self.release.wait(60)
                return
            case "500":
                status, body = 500, b"<html>trouble</html>"
            case "400":
                status, body = 400, json.dumps({"error": True, "reason": "Out of\nallowed range"}).encode()
            case "garbage":
                body = b"<html>Please log in to the Wi-Fi</html>"
            case "other":
                body = json.dumps({"unexpected": [1, 2, 3]}).encode()
            case _:
                body = self.body or json.dumps(answer(path, query), ensure_ascii=False).encode()
        redirect, self.redirect = self.redirect, ""
        handler.send_response(302 if redirect else status)
        if redirect:
            handler.send_header("Location", redirect)
        handler.send_header("Content-Type", "application/json; charset=utf-8")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if self.mode == "drip":
            for position in range(len(body)):
                handler.wfile.write(body[position : position + 1])
                if self.release.wait(0.2):
                    return
        else:
            handler.wfile.write(body)


def open_meteo() -> Outside:
    """Stand in for both APIs of Open-Meteo; the temperature of an hour is 50 plus the hour."""
    return Outside(_weather)


def cat_facts() -> Outside:
    """Stand in for catfact.ninja."""
    fact = "A cat can jump up to six times its length."
    return Outside(lambda path, query: {"fact": fact, "length": len(fact)})


def _weather(path: str, query: dict[str, str]) -> dict[str, Any]:
    day = datetime.date.fromisoformat(query["start_date"]).isoformat()
    symbol = SYMBOLS[query["temperature_unit"]]
    return {
        "latitude": round(float(query["latitude"]), 1),
        "longitude": round(float(query["longitude"]), 1),
        "generationtime_ms": 0.12,
        "utc_offset_seconds": -14400,
        "timezone": query["timezone"],
        "timezone_abbreviation": "GMT-4",
        "elevation": 21.0,
        "hourly_units": {"time": "iso8601", "temperature_2m": symbol},
        "hourly": {
            "time": [f"{day}T{hour:02d}:00" for hour in range(24)],
            "temperature_2m": [50.0 + hour for hour in range(24)],
        },
        "daily_units": {"time": "iso8601", "sunrise": "iso8601", "sunset": "iso8601"},
        "daily": {"time": [day], "sunrise": [f"{day}T05:43"], "sunset": [f"{day}T19:51"]},
    }
