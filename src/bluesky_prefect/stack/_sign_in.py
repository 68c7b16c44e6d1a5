"""Links that sign a browser in to the UIs of the stack's servers, for the one who holds their keys."""

from bluesky_prefect.stack._http import request_json
from bluesky_prefect.stack._info import StackInfo

SIGN_IN = "/bluesky-prefect/sign-in"
LINKS = "/bluesky-prefect/links"
SIGNED_IN = "/bluesky-prefect/signed-in"


def sign_in_url(info: StackInfo) -> str:
    """Return an address that signs a browser in and shows the flow runs: it works once, and for ten minutes.

    Raises `StackError` if the Prefect server does not answer.
    """
    return _link(info.prefect_ui_url, info.prefect_headers["Authorization"])


def tiled_sign_in_url(info: StackInfo) -> str:
    """Return an address that signs a browser in to Tiled, likewise.

    Raises `StackError` if the Tiled server does not answer.
    """
    return _link(info.tiled_uri, f"Apikey {info.tiled_api_key.get_secret_value()}")


def _link(server: str, authorization: str) -> str:
    made = request_json(f"{server}{LINKS}", body={}, headers={"Authorization": authorization})
    # What comes after '#' a browser keeps to itself: it is in no log and no Referer.
    return f"{server}{SIGN_IN}#{made['token']}"
