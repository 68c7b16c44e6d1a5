"""Links that sign a browser in to the stack's Prefect UI, for the one who holds its password."""

from bluesky_prefect.stack._http import request_json
from bluesky_prefect.stack._info import StackInfo

SIGN_IN = "/bluesky-prefect/sign-in"
LINKS = "/bluesky-prefect/links"
SIGNED_IN = "/bluesky-prefect/signed-in"


def sign_in_url(info: StackInfo) -> str:
    """Return an address that signs a browser in and shows the flow runs: it works once, and for ten minutes.

    Raises `StackError` if the Prefect server does not answer.
    """
    made = request_json(f"{info.prefect_ui_url}{LINKS}", body={}, headers=info.prefect_headers)
    # What comes after '#' a browser keeps to itself: it is in no log and no Referer.
    return f"{info.prefect_ui_url}{SIGN_IN}#{made['token']}"
