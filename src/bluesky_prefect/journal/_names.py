"""The names of journals."""

from hashlib import sha256
from pathlib import Path
from urllib.parse import quote, unquote

SUFFIX = ".journal"
_MAX_LENGTH = 200


def journal_name(run_uid: str, copy: int = 0) -> str:
    """Return the name of a run's journal; there are copies of a run that is emitted anew."""
    name = quote(run_uid, safe="", errors="surrogatepass").replace(".", "%2E")
    if not name or len(name) > _MAX_LENGTH:
        name = sha256(run_uid.encode(errors="surrogatepass")).hexdigest()
    return f"{name}{f'.{copy}' if copy else ''}{SUFFIX}"


def run_uid_of(journal: Path) -> str:
    """Return the uid of the run that a journal is of, unless that is too long for a name."""
    return unquote(journal.name.partition(".")[0], errors="surrogatepass")
