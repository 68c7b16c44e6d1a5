"""Upgrade and roll back: the versions of two commits write to one state directory, and each reads all of it."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
_HERE = Path(__file__).parent
_WHOLE = ["start", "descriptor", "event", "stop"]


class Version:
    """The package of a commit, in an environment of its own; or this checkout in the one that runs this."""

    def __init__(self, commit: str | None, folder: Path) -> None:
        self.name = commit or "this version"
        self._python = Path(sys.executable)
        if commit:
            self._python = self._installed(commit, folder)
        self.keeps_journals = not subprocess.run(
            [self._python, "-c", "import bluesky_prefect.journal"], cwd=folder, stderr=subprocess.DEVNULL
        ).returncode

    def _installed(self, commit: str, folder: Path) -> Path:
        source, environment = folder / f"source-{commit}", folder / f"environment-{commit}"
        source.mkdir()
        archive = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
        subprocess.run(["tar", "-x", "-C", str(source)], input=archive, check=True)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
        python = environment / "bin" / "python"
        # With what it took then, which is not what this version is tested with.
        subprocess.run([ROOT / ".ci/install", python, str(source)], check=True, env={**os.environ, "CONSTRAINTS": ""})
        return python

    def write(self, state: Path, prefix: str) -> None:
        """Take runs, and be killed."""
        done = self._start("write.py", str(state), prefix)
        done.communicate()
        assert done.returncode == -signal.SIGKILL

    def session(self, state: Path, prefix: str) -> subprocess.Popen[str]:
        """Take runs, and return a session that is still open; `end` has it take more, and be killed."""
        process = self._start("write.py", str(state), prefix, "waits")
        assert process.stdout
        assert process.stdout.readline() == "taken\n"
        return process

    def read(self, state: Path) -> dict[str, dict[str, list]]:
        """Return what it finds."""
        process = self._start("read.py", str(state))
        printed, _ = process.communicate()
        assert process.returncode == 0
        return json.loads(printed.splitlines()[-1])

    def _start(self, script: str, *arguments: str) -> subprocess.Popen[str]:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        # Its text, since its folder would be where Python looks for packages.
        command = [str(self._python), "-W", "ignore", "-c", (_HERE / script).read_text(), *arguments]
        return subprocess.Popen(command, cwd=arguments[0], env={**os.environ, "DO_NOT_TRACK": "1"}, **pipes)


def end(session: "subprocess.Popen[str]") -> None:
    """Have an open session take more runs, and be killed."""
    session.communicate("\n")
    assert session.returncode == -signal.SIGKILL


def require(found: dict[str, dict[str, list]], prefixes: "tuple[str, ...]", *, journals: bool) -> None:
    """Raise AssertionError unless all that sessions took under these prefixes is there, and is what it was."""
    for prefix in prefixes:
        ends = [one for key, one in found["entries"].items() if key.startswith(f"{prefix}-whole:")]
        assert ends == [["waiting", "Fe₂O₃", "success"]] * 2, (prefix, found["entries"])
        refused = {key: one[0] for key, one in found["entries"].items() if key.startswith(f"{prefix}-refused:")}
        assert refused.get(f"{prefix}-refused:other/local") == "waiting", (prefix, refused)
        if not journals:
            continue
        assert found["journals"][f"{prefix}-whole"] == [_WHOLE, [3.0]], (prefix, found["journals"])
        assert found["journals"][f"{prefix}-refused"] == [_WHOLE, [3.0]], (prefix, found["journals"])
        assert found["journals"][f"{prefix}-cut"] == [_WHOLE[:-1], [3.0]], (prefix, found["journals"])


def main() -> None:
    """Try both directions with the commit that is named."""
    [commit] = sys.argv[1:]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind in ("upgrade", "rollback", "mixed"):
            (folder / kind).mkdir(mode=0o700)
        old, new = Version(commit, folder), Version(None, folder)
        journals = old.keeps_journals

        old.write(folder / "upgrade", "old")
        require(new.read(folder / "upgrade"), ("old",), journals=journals)
        new.write(folder / "upgrade", "new")
        require(new.read(folder / "upgrade"), ("old", "new"), journals=journals)
        print(f"Upgrade from {commit}: nothing lost.")

        require(old.read(folder / "upgrade"), ("old", "new"), journals=journals)
        new.write(folder / "rollback", "new")
        old.write(folder / "rollback", "old")
        require(old.read(folder / "rollback"), ("new", "old"), journals=journals)
        require(new.read(folder / "rollback"), ("new", "old"), journals=journals)
        print(f"Rollback to {commit}, and upgrade again: nothing lost.")

        one, other = old.session(folder / "mixed", "old"), new.session(folder / "mixed", "new")
        end(one)
        end(other)
        for version in (old, new):
            require(version.read(folder / "mixed"), ("old", "new", "old-late", "new-late"), journals=journals)
        print(f"Sessions of {commit} and of this version beside each other: nothing lost.")


if __name__ == "__main__":
    main()
