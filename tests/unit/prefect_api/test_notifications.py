"""When a message about a failed run is sent, and when it waits for its automation to be in use."""

import uuid
from datetime import UTC, datetime
from types import SimpleNamespace

import httpx
import pytest

from bluesky_prefect.core import PrefectUnavailable, Run, Submission
from bluesky_prefect.prefect_api._notifications import Notifications, automation

NOTICE = "run-failure:slack/mon"
MESSAGE = Submission.message(Run("u", {"uid": "u"}, {"exit_status": "fail", "time": 1.0}), NOTICE)
BLOCK, KEPT = uuid.uuid4(), uuid.uuid4()
NOW = 1_800_000_000.0


class Server:
    """The part of Prefect's client that messages need; `age_s` is None where the server does not tell."""

    def __init__(self, description, age_s):
        self.kept, self.age_s, self.events = [], age_s, []
        if description is not None:
            self.kept = [SimpleNamespace(id=KEPT, description=description, enabled=True)]

    def read_block_document_by_name(self, name, slug, include_secrets):
        return SimpleNamespace(id=BLOCK, block_schema=SimpleNamespace(capabilities=["notify"]))

    def read_automations_by_name(self, name):
        return self.kept

    def create_automation(self, wanted):
        self.kept = [SimpleNamespace(id=KEPT, description=wanted.description, enabled=True)]

    def update_automation(self, automation_id, wanted):
        self.create_automation(wanted)

    def request(self, method, path, **arguments):
        if path == "/events":
            self.events += arguments["json"]
            return httpx.Response(204)
        assert (path, arguments["path_params"]) == ("/automations/{id}", {"id": str(KEPT)})
        if self.age_s == "deleted":
            response = httpx.Response(404, request=httpx.Request(method, "http://prefect"))
            raise httpx.HTTPStatusError("", request=response.request, response=response)
        updated = {} if self.age_s is None else {"updated": datetime.fromtimestamp(NOW - self.age_s, UTC).isoformat()}
        return httpx.Response(200, json=updated)


@pytest.fixture
def told():
    def tell(description, age_s):
        server = Server(description, age_s)
        Notifications(server, now=lambda: NOW).tell(MESSAGE)
        return len(server.events)

    return tell


def as_it_should_be():
    return automation(NOTICE, BLOCK).description


@pytest.mark.parametrize("age_s", [6.0, 86_400.0, -3600.0, None], ids=["old", "older", "another clock", "unknown"])
def test_a_message_goes_where_its_automation_is_in_use(told, age_s):
    assert told(as_it_should_be(), age_s) == 1


@pytest.mark.parametrize("age_s", [0.0, 4.0, -0.5, "deleted"])
def test_a_message_waits_where_somebody_else_has_just_changed_its_automation(told, age_s):
    with pytest.raises(PrefectUnavailable, match="is new, or has just changed") as caught:
        told(as_it_should_be(), age_s)
    assert (caught.value.busy, caught.value.retry_after_s) == (True, 6.0)


@pytest.mark.parametrize("description", [None, "of an older version"], ids=["made", "updated"])
def test_a_message_waits_for_an_automation_that_it_has_made_or_updated(told, description):
    with pytest.raises(PrefectUnavailable, match="is new, or has just changed"):
        told(description, 86_400.0)
