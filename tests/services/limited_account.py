"""An account that the limits of the system count for, which they do not for root."""

import os


def as_limited_account() -> list[str]:
    """Return the beginning of a command line that executes the rest of it by an account of its own, if this is root.

    A limit of processes counts all those of an account. It may read what root keeps its interpreter in.
    """
    if os.getuid() != 0:
        return []
    account = ["setpriv", f"--reuid={61_000 + os.getpid() % 4000}", "--regid=65534", "--clear-groups"]
    return [*account, "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
