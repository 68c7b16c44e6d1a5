"""Build the wheel, install it by each extra, run the smallest example from it, and print what each extra brings."""

import re
import subprocess
import sys
import tempfile
import threading
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.wheel._environment import ROOT, Environment, Failed, empty_environment

_EXAMPLES = Path(__file__).with_name("examples")
# Those of users; 'test' and 'dev' are for a checkout.
_OF_CHECKOUTS = {"test", "dev"}
_PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@dataclass(frozen=True)
class Install:
    """A way to install the wheel.

    Attributes
    ----------
    extra : str
        The extra, or what else is in the place of one; the example of that name runs.
    purpose : str
        The import of what it is for.
    beside : tuple of str
        What is installed before, whose packages do not count.
    light : bool
        With Prefect's client in the place of Prefect: no package manager knows that it is enough.
    """

    extra: str
    purpose: str
    beside: tuple[str, ...] = ()
    light: bool = False

    @property
    def name(self) -> str:
        """The name of its example."""
        return self.extra.replace(" ", "_") or "base"


_BASE = "from bluesky_prefect import PrefectCallback"
_CLIENT = "import prefect.client.orchestration"
INSTALLS = (
    Install("", _CLIENT),
    Install("beside bluesky", _CLIENT, beside=("bluesky",)),
    Install("on prefect-client", _CLIENT, light=True),
    Install("cli", "from bluesky_prefect.cli import _app"),
    Install("courier", "import bluesky_tiled_plugins, tiled.client"),
    Install("flows", "from bluesky_prefect.flows import export"),
    Install("kafka", "import confluent_kafka"),
    Install("metrics", "import prometheus_client"),
    Install("zmq", "import zmq"),
    Install("local", "from bluesky_prefect.stack import LocalStack"),
    Install("profile", "from bluesky_prefect.session import start_session; import bluesky, ophyd, IPython"),
)


def main() -> None:
    """Try all, or those that are named, two at once; end with 1 if one does not work."""
    _require_all_extras()
    asked = [one for one in INSTALLS if one.name in (sys.argv[1:] or [one.name])]
    failed = []
    print("| install | packages | MB | import of the callback, s | import of its purpose, s |\n|---|---|---|---|---|")
    with (
        tempfile.TemporaryDirectory(prefix="bluesky-prefect-wheel-", ignore_cleanup_errors=True) as folder,
        ThreadPoolExecutor(2) as pool,
    ):
        wheel = _build(folder)
        rows = [(one.name, pool.submit(_row, one, wheel, Path(folder))) for one in asked]
        for name, row in rows:
            try:
                print(row.result(), flush=True)
            except (Failed, subprocess.TimeoutExpired) as error:
                failed.append(f"{name}: {error}")
    if failed:
        sys.exit("\n".join(failed))


def _require_all_extras() -> None:
    missing = set(_PROJECT["optional-dependencies"]) - _OF_CHECKOUTS - {one.extra for one in INSTALLS}
    if missing:
        sys.exit(f"Extras that nobody tries: {', '.join(sorted(missing))}. Add them to {__file__}.")


def _build(folder: str) -> Path:
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", folder, str(ROOT)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return next(Path(folder).glob("*.whl"))


def _row(install: Install, wheel: Path, folder: Path) -> str:
    # A place for each of those at work at once; the two Prefects have files of the same names.
    place = folder / f"{threading.current_thread().name}{'-light' if install.light else ''}"
    with empty_environment(place) as environment:
        present, present_mb = set(), 0.0
        if install.beside:
            environment.install(*install.beside)
            present, present_mb = environment.packages(), environment.size_mb()
        _install(install, wheel, environment)
        packages, size_mb = len(environment.packages() - present), environment.size_mb() - present_mb
        _run_example("base" if install.light else install.name, environment)
        times = [environment.import_s(statement) for statement in (_BASE, install.purpose)]
    return f"| {install.extra or 'base'} | {packages} | {size_mb:.0f} | {times[0]:.2f} | {times[1]:.2f} |"


def _install(install: Install, wheel: Path, environment: Environment) -> None:
    if install.light:
        environment.install(*_light_requirements())
        environment.install("--no-deps", str(wheel))
        return
    extra = f"[{install.extra}]" if install.extra in _PROJECT["optional-dependencies"] else ""
    environment.install(f"bluesky-prefect{extra} @ {wheel.as_uri()}")
    environment.check()


def _light_requirements() -> list[str]:
    return [re.sub(r"^prefect\b", "prefect-client", one) for one in _PROJECT["dependencies"]]


def _run_example(name: str, environment: Environment) -> None:
    # Not as a file of the checkout: its folder would be where Python looks for packages.
    environment.run(str(environment.python), "-c", (_EXAMPLES / f"{name}.py").read_text())


if __name__ == "__main__":
    main()
