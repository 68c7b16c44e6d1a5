"""Messages about how flow runs and runs end, which Prefect's server sends by itself."""

import hashlib
import logging
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from bluesky_prefect.core import (
    FAILURE,
    ConfigurationError,
    DeploymentMissing,
    PrefectUnavailable,
    Submission,
    error_line,
    is_message,
)
from bluesky_prefect.prefect_api._api_errors import prefect_errors
from bluesky_prefect.prefect_api._message_text import REASON_LENGTH, as_text
from bluesky_prefect.prefect_api._run_failure import BODY, SUBJECT, run_failure_event, run_failure_trigger
from bluesky_prefect.prefect_api._states import FAILED_STATES
from bluesky_prefect.prefect_api._ui_links import flow_run_url, ui_url

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import BlockDocument
    from prefect.events.schemas.automations import AutomationCore, EventTrigger

    from bluesky_prefect.prefect_api._client import PrefectApi

logger = logging.getLogger(__name__)

TAG = "notify-"
"""Before a notice, it makes the tag of the flow runs that the notice is about."""

# An automation or a block may be deleted or made by hand at any time.
_CHECKED_FOR_S = 600.0
_TRIED_AGAIN_AFTER_S = 60.0
# The part of the server that acts on events reads automations so often, if nothing tells it of a new one.
_TAKEN_UP_AFTER_S = 5.0
# A server tells the time in whole seconds.
_CLOCK_STEP_S = 1.0

_REASON = f"flow_run.state.message | default('none given', true) | truncate({REASON_LENGTH})"
_SUBJECT = f"{as_text('flow_run.name')}: {as_text('flow_run.state.name')}"


class Notifications:
    """Has Prefect's server tell people how flow runs end, and that runs failed.

    For each notice the server keeps an automation that waits for flow runs with the notice's tag: whoever starts them,
    whatever they execute, and also if their process is killed. The server then sends the message through a
    notification block, which alone knows the address. A failed run is made known to the server as an event.

    The clock gives a time in seconds that never jumps; `now` gives the server's time in seconds since the epoch.
    """

    def __init__(
        self,
        client: "SyncPrefectClient",
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._clock = clock
        self._now = now
        self._due: dict[str, float] = {}
        self._told: dict[str, str] = {}

    def prepare(self, notices: Iterable[str]) -> None:
        """Make sure that the automations of notices exist. Never raises: what is in the way is logged, once.

        A notice that was looked at a while ago costs nothing.
        """
        for notice in notices:
            if self._clock() < self._due.get(notice, 0.0):
                continue
            trouble = self._try(notice)
            self._due[notice] = self._clock() + (_TRIED_AGAIN_AFTER_S if trouble else _CHECKED_FOR_S)
            if trouble and trouble != self._told.get(notice):
                end, _, block = notice.partition(":")
                logger.warning("No message about a %s goes to %s (flow runs are not affected): %s", end, block, trouble)
            self._told[notice] = trouble

    def tell(self, submission: Submission) -> None:
        """Make a failed run known to the server, whose automation tells people; the same run once within a day.

        Raises
        ------
        DeploymentMissing
            If there is no notification block of that name.
        PrefectUnavailable
            If the automation was made or changed just now.
        Exception
            What Prefect's client raises.
        """
        notice = submission.deployment
        try:
            kept = self._prepare(notice)
        except ConfigurationError as error:
            raise DeploymentMissing(str(error)) from error
        if kept is None or self._is_new(kept):
            raise PrefectUnavailable(
                f"Prefect's automation {TAG}{notice} is new, or has just changed; the message is sent once it is in "
                "use.",
                retry_after_s=_TAKEN_UP_AFTER_S + _CLOCK_STEP_S,
                server_responded=True,
                busy=True,
            )
        event = run_failure_event(submission, TAG + notice)
        self._client.request("POST", "/events", json=[event.model_dump(mode="json")])

    def _try(self, notice: str) -> str:
        """Return why the automation of a notice cannot be had, or an empty string."""
        import httpx

        try:
            self._prepare(notice)
        except ConfigurationError as error:
            return str(error)
        except httpx.HTTPStatusError as error:
            # Not the error's own text, which holds the address as it is set.
            return f"Prefect answers {error.response.status_code} where its automations are."
        except Exception as error:  # noqa: BLE001 - the flow run counts, not the message about it
            return f"Prefect's automations cannot be asked for: {error_line(error)}."
        return ""

    def _prepare(self, notice: str) -> "UUID | None":
        """Make sure that the automation of a notice exists; return its id if it was there and is as it should be."""
        from prefect.exceptions import ObjectNotFound

        wanted = automation(notice, _block(self._client, notice.partition(":")[2]).id)
        existing = sorted(self._client.read_automations_by_name(wanted.name), key=lambda one: str(one.id))
        is_ready = bool(existing)
        if not existing:
            self._client.create_automation(wanted)
            # Another process may have done so at the same moment; both keep the same one.
            existing = sorted(self._client.read_automations_by_name(wanted.name), key=lambda one: str(one.id))
        for double in existing[1:]:
            with suppress(ObjectNotFound):  # another process was faster
                self._client.delete_automation(double.id)
        for kept in existing[:1]:
            if kept.description != wanted.description:
                self._client.update_automation(kept.id, wanted.model_copy(update={"enabled": kept.enabled}))
                is_ready = False
        return existing[0].id if is_ready else None

    def _is_new(self, kept: "UUID") -> bool:
        """Tell whether somebody has made or changed an automation so lately that it may not be in use yet."""
        import httpx

        # Not read_automation, which keeps the date to itself.
        try:
            found = self._client.request("GET", "/automations/{id}", path_params={"id": str(kept)}).json()
            updated = datetime.fromisoformat(found["updated"])
        except httpx.HTTPStatusError as error:
            if error.response.status_code != HTTPStatus.NOT_FOUND:
                raise
            return True  # it was deleted at this moment, and is made anew
        except (KeyError, TypeError, ValueError):
            return False
        # Its database may have another clock; by that an automation is not new for ever.
        return abs(self._now() - updated.timestamp()) < _TAKEN_UP_AFTER_S


def unusable_blocks(api: "PrefectApi", blocks: Iterable[str]) -> dict[str, str]:
    """Return which of these notification blocks cannot send messages, each with the reason and what to do.

    Raises `PrefectUnavailable` if Prefect cannot be asked.
    """
    found: dict[str, str] = {}
    for block in blocks:
        try:
            with prefect_errors():
                _block(api.client, block)
        except ConfigurationError as error:
            found[block] = str(error)
    return found


def _block(client: "SyncPrefectClient", block: str) -> "BlockDocument":
    from prefect.exceptions import ObjectNotFound

    kind, _, name = block.partition("/")
    for slug in (kind, f"{kind}-webhook"):
        try:
            found = client.read_block_document_by_name(name, slug, include_secrets=False)
        except ObjectNotFound:
            continue
        if found.block_schema is None or "notify" not in found.block_schema.capabilities:
            raise ConfigurationError(f"Prefect's block {block!r} cannot send messages: it is no notification block.")
        return found
    raise ConfigurationError(
        f"Prefect has no notification block {block!r}. Make it in Prefect's UI (Blocks), or with: {_command(block)}"
    )


def notification_tags(notices: Iterable[str]) -> list[str]:
    """Return the tags of a flow run that notices are about."""
    return [TAG + notice for notice in notices]


def automation(notice: str, block_id: "UUID") -> "AutomationCore":
    """Return the automation that sends the messages of a notice through a block."""
    from prefect.events.actions import SendNotification
    from prefect.events.schemas.automations import AutomationCore

    tag = TAG + notice
    if is_message(notice):
        what, trigger, subject, body, same = "runs", run_failure_trigger(tag), SUBJECT, BODY, BODY
    else:
        what, trigger, subject, body = "flow runs", _flow_run_trigger(notice, tag), _SUBJECT, _body(_ui_url())
        same = _body("")  # from wherever it is made
    made_from = (trigger.model_dump_json(), str(block_id), subject, same)
    version = hashlib.sha256(repr(made_from).encode()).hexdigest()[:8]
    return AutomationCore(
        name=f"bluesky-prefect {tag}",
        description=f"Of {what} with the tag {tag}. Kept by bluesky-prefect ({version}); turned off, it stays off.",
        trigger=trigger,
        actions=[SendNotification(block_document_id=block_id, subject=subject, body=body)],
    )


def _flow_run_trigger(notice: str, tag: str) -> "EventTrigger":
    from prefect.events.schemas.automations import EventTrigger, Posture

    states = list(FAILED_STATES) if notice.startswith(FAILURE) else ["COMPLETED"]
    return EventTrigger(
        posture=Posture.Reactive,
        # By the type of the state: its name may be any, such as TimedOut.
        expect={"prefect.flow-run.*"},
        match={"prefect.resource.id": "prefect.flow-run.*", "prefect.state-type": states},  # type: ignore[reportArgumentType]
        # A flow run within another may inherit its tags; it is of no deployment.
        match_related=[{"prefect.resource.id": f"prefect.tag.{tag}"}, {"prefect.resource.role": "deployment"}],  # type: ignore[reportArgumentType]
        for_each={"prefect.resource.id"},
    )


def _body(ui: str) -> str:
    """Return the template of a message, which Prefect's server renders; values in it are not rendered again."""
    link = flow_run_url(ui, "", failed=True)
    return "\n".join(
        [
            f"Scan id: {_tag_value('scan_id')}",
            f"Plan: {_tag_value('plan_name')}",
            f"Run: {_tag_value('uid')}",
            f"Flow: {as_text('flow.name')}",
            f"Reason: {as_text(_REASON)}",
            # The server knows its own address best, unless nobody has told it. It leads to the older of its UIs.
            f"{{% set url = flow_run | ui_url | replace('/runs/flow-run/', '{link.removeprefix(ui)}') %}}"
            f"{{{{ url if url and '//0.0.0.0' not in url else '{link}' ~ flow_run.id }}}}",
        ]
    )


def _tag_value(name: str) -> str:
    start = f"{name}:"
    return (
        f"{{% for tag in flow_run.tags if tag.startswith('{start}') %}}{as_text(f'tag[{len(start)}:]')}"
        "{% else %}unknown{% endfor %}"
    )


def _ui_url() -> str:
    return "".join(character for character in ui_url() if character not in "'\\{}%")


def _command(block: str) -> str:
    """Return the command that makes a block; it asks for the address, which is a secret."""
    import prefect.blocks.notifications as known

    kind, _, name = block.partition("/")
    for candidate in vars(known).values():
        if _takes_an_address(candidate) and candidate.get_block_type_slug() in {kind, f"{kind}-webhook"}:
            made = f"{candidate.__name__}(url=input('Address: ')).save('{name}')"
            return f'python -c "from prefect.blocks.notifications import {candidate.__name__}; {made}"'
    return f"prefect block create {kind}"


def _takes_an_address(candidate: Any) -> bool:
    from prefect.blocks.abstract import NotificationBlock

    if not isinstance(candidate, type) or not issubclass(candidate, NotificationBlock):
        return False
    return [name for name, field in candidate.model_fields.items() if field.is_required()] == ["url"]
