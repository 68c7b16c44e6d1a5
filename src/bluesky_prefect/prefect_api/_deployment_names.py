"""The names of deployments, looked up without Prefect's client, whose import would hold a session up."""

import json
import urllib.request
from collections.abc import Iterable
from typing import Any

from bluesky_prefect.core import basic_auth, did_you_mean, prefect_authorization, prefect_url, user_in_url, without_user
from bluesky_prefect.prefect_api._inventory import named_deployments


def missing_deployments(deployments: Iterable[str], timeout_s: float) -> dict[str, str]:
    """Return what is to be said about each deployment that Prefect does not know, by its name.

    Raises
    ------
    OSError, ValueError
        If Prefect cannot be asked within `timeout_s` for a request, or answers with an error or no JSON.
    """
    url, user = prefect_url(), user_in_url(prefect_url())
    root, authorization = without_user(url).rstrip("/"), prefect_authorization() or (basic_auth(user) if user else "")

    def ask(path: str, body: dict[str, Any]) -> Any:
        body_type = {"Content-Type": "application/json"}
        request = urllib.request.Request(root + path, json.dumps(body).encode(), body_type)  # noqa: S310 - Prefect's own
        if authorization:
            request.add_unredirected_header("Authorization", authorization)
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:  # noqa: S310
            return json.load(answer)

    known = list(named_deployments(ask))
    missing = dict.fromkeys(name for name in deployments if name not in known)
    remedy = "Deploy it, or correct its name."
    return {
        name: f"Prefect has no deployment {name!r}: runs wait for it.{did_you_mean(name, known)} {remedy}"
        for name in missing
    }
