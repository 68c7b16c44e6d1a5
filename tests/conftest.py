"""What every test stands on: homes of its own, and a skip that CI does not forgive."""

import gc
import os
import signal
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

import bluesky_prefect

_HOMES = {
    "HOME": "home",
    "XDG_CONFIG_HOME": "config",
    "XDG_CACHE_HOME": "cache",
    "XDG_DATA_HOME": "data",
    "XDG_STATE_HOME": "state",
    "PREFECT_HOME": "prefect",
    "IPYTHONDIR": "ipython",
    "MPLCONFIGDIR": "matplotlib",
}
_FOREIGN = ("PREFECT_", "TILED_", "BLUESKY_")


def pytest_configure(config: pytest.Config) -> None:
    """Isolate the session before anything reads the environment (Prefect does so at import)."""
    # A shell that starts this in the background has it ignored, and all processes of the tests would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    scratch = Path(tempfile.mkdtemp(prefix="bluesky-prefect-tests-"))
    for name in [name for name in os.environ if name.startswith(_FOREIGN)]:
        del os.environ[name]
    for name, folder in _HOMES.items():
        (scratch / folder).mkdir()
        os.environ[name] = str(scratch / folder)
    # Where it is set, each process of the tests compiles all that it imports anew.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    # A test that forgets to name a server must fail, not start one of its own in the background.
    os.environ["PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"] = "false"
    os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
    # Nor may a session leave a courier behind.
    os.environ["BLUESKY_PREFECT_START_COURIER"] = "false"
    # No server of the tests has a certificate of an authority, and each client would read those of all of them: 25 ms
    # of the processor. The local stack has its own processes spared that in the same way.
    nobody = Path(bluesky_prefect.__file__).parent / "stack" / "nobody.pem"
    os.environ["PREFECT_API_SSL_CERT_FILE"] = str(nobody)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Import the tests, and all that they import, without looking through it for garbage: a third of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()  # nor later
        gc.enable()


def missing_service(reason: str) -> None:
    """Skip on a laptop, fail in CI, where every service must be there."""
    if os.environ.get("CI"):
        pytest.fail(f"CI must have it: {reason}")
    pytest.skip(reason)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything below tests/system."""
    for item in items:
        if "system" in item.path.parts:
            item.add_marker(pytest.mark.system)


@pytest.fixture(params=[0o000, 0o022, 0o777], ids=oct)
def any_umask(request: pytest.FixtureRequest) -> Iterator[None]:
    """Have the test run with each of some umasks."""
    before = os.umask(request.param)
    yield
    os.umask(before)
