"""The Prefect server's application, with a page that signs a browser in to Prefect's UI."""

import os
from typing import TYPE_CHECKING

from bluesky_prefect.core import basic_auth
from bluesky_prefect.prefect_api import runs_url
from bluesky_prefect.stack._sign_in_pages import SignIn

if TYPE_CHECKING:
    from starlette.types import ASGIApp


def app_factory() -> "ASGIApp":
    """Return Prefect's own application; with the page, if it asks for a password."""
    from prefect.server.api.server import create_app
    from prefect.settings import get_current_settings

    # Prefect copies its UI, with this umask, into its own installation, and other users of that serve it, too.
    umask = os.umask(0o022)
    try:
        app = create_app(final=True)
    finally:
        os.umask(umask)
    auth_string = get_current_settings().server.api.auth_string
    return with_sign_in(app, auth_string.get_secret_value()) if auth_string else app


def with_sign_in(app: "ASGIApp", auth_string: str) -> SignIn:
    """Return Prefect's application with the page; `auth_string` is the user and password that it asks for."""
    authorization = basic_auth(auth_string)
    return SignIn(app, authorization, home=runs_url(""), kept=authorization.removeprefix("Basic "))
