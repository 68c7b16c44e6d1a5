"""Types of states in which flow runs have ended."""

# As a person means it: somebody has to look. What was cancelled, somebody has cancelled.
FAILED_STATES = ("FAILED", "CRASHED")


def is_final(state_type: str) -> bool:
    """Tell whether flow runs in a state of this type have ended."""
    from prefect.client.schemas.objects import TERMINAL_STATES

    return state_type in TERMINAL_STATES  # whose members are texts
