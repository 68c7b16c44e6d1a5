"""The Prefect server: API, UI and database."""

from dataclasses import dataclass, field
from pathlib import Path

from bluesky_prefect.core import basic_auth, rights_in
from bluesky_prefect.stack._database import PrefectDatabase, sqlite_database
from bluesky_prefect.stack._files import make_private_directory
from bluesky_prefect.stack._http import answers
from bluesky_prefect.stack._info import StackPaths
from bluesky_prefect.stack._keys import SERVER_AUTH_STRING
from bluesky_prefect.stack._ports import HOST
from bluesky_prefect.stack._service import serve_command

# A certificate of no server at all.
_NOBODY = Path(__file__).with_name("nobody.pem")


@dataclass(frozen=True)
class PrefectServer:
    """Prefect's API and UI, apart from any other Prefect of the user; on SQLite unless a database is given.

    It asks for user and password, `auth_string`, unless that is None.
    """

    paths: StackPaths
    port: int
    auth_string: str | None = field(repr=False)
    database: PrefectDatabase | None = None

    name = "prefect"
    title = "Prefect server"
    # The RunEngine beside it goes first: it never waits for Prefect.
    niceness = 5

    @property
    def umask(self) -> int:
        """The umask it runs with: its files are for those who may enter the state directory."""
        return rights_in(self.paths.root).umask

    def command(self) -> list[str]:
        """Return the command line: Prefect's application in place of ``prefect server start``.

        Prefect's own admits any name for this machine, and web sockets of pages from anywhere.
        """
        return serve_command("bluesky_prefect.stack._prefect_app:app_factory", self.port)

    def environment(self) -> dict[str, str]:
        """Return Prefect's settings."""
        url = f"http://{HOST}:{self.port}/api"
        return {
            **client_environment(self.paths),
            "PREFECT_API_URL": url,
            "PREFECT_SERVER_API_HOST": HOST,
            "PREFECT_SERVER_API_PORT": str(self.port),
            "PREFECT_SERVER_UI_API_URL": url,
            **({SERVER_AUTH_STRING: self.auth_string} if self.auth_string else {}),
            "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
            **(self.database or sqlite_database(self.paths)).environment(),
            # Rewrites the state of every flow run that waits for more than 15 s, as one does when scans come fast;
            # its transactions were behind each "database is locked" of the server itself, and half of those that
            # clients met (measured: 10 flow runs, 11 answers of 503 with it, 5 without).
            "PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "false",
        }

    def prepare(self) -> None:
        """Make the directory of the database."""
        make_private_directory(self.paths.prefect)

    def is_ready(self) -> bool:
        """Tell whether the API lets the one in who knows the password."""
        headers = {"Authorization": basic_auth(self.auth_string)} if self.auth_string else {}
        # Not its health, which it tells everybody.
        return answers(f"http://{HOST}:{self.port}/api/admin/version", headers=headers)


def client_environment(paths: StackPaths) -> dict[str, str]:
    """Return the settings that every Prefect process of the stack shares."""
    return {
        "PREFECT_HOME": str(paths.prefect),
        "PREFECT_LOGGING_COLORS": "false",
        "NO_COLOR": "1",
        "PREFECT_CLI_COLORS": "false",
        "PREFECT_CLI_PROMPT": "false",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        # A process that cannot reach the server must say so, not start a second one in the background.
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
        # The server asks for a password and for no such token; each client would ask for one first, and be refused.
        "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED": "false",
        # The server is of this installation, and each flow run would ask twice.
        "PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "false",
        # It is asked without TLS. Each client reads the certificates of all the world's authorities all the same, which
        # was an eighth of the processor time of a flow run's process (bursts of 20, by turns).
        "PREFECT_API_SSL_CERT_FILE": str(_NOBODY),
    }
