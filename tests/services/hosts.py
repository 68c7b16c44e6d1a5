"""Hosts on one machine: network namespaces with cables to a switch, which a test can unplug."""

import ctypes
import os
import secrets
import shutil
import subprocess
import threading
from collections.abc import Callable, Sequence
from typing import Any, Self

import pytest

from tests.conftest import missing_service

_NEW_NETWORK = 0x40000000  # CLONE_NEWNET of setns(2)


class Hosts:
    """Network namespaces that act as hosts of one subnet; needs root.

    Parameters
    ----------
    *names : str
        Names of the hosts.
    """

    def __init__(self, *names: str) -> None:
        ip = shutil.which("ip", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
        if os.geteuid() != 0 or not ip:
            missing_service("root, and ip, which Debian's package iproute2 has: this test makes network namespaces")
        self._ip = str(ip)
        self._prefix = f"bp{secrets.token_hex(3)}"
        self.addresses = {name: f"10.213.7.{number}" for number, name in enumerate(names, 1)}
        self._switch = f"{self._prefix}-switch"

    def __enter__(self) -> Self:
        try:
            self._make(self._switch)
            self._run("-n", self._switch, "link", "add", "switch", "type", "bridge")
            self._run("-n", self._switch, "link", "set", "switch", "up")
            for number, (name, address) in enumerate(self.addresses.items()):
                host = self.namespace(name)
                self._make(host)
                port = ["name", f"port{number}", "netns", self._switch]
                self._run("-n", host, "link", "add", "cable", "type", "veth", "peer", *port)
                self._run("-n", self._switch, "link", "set", f"port{number}", "master", "switch", "up")
                self._run("-n", host, "address", "add", f"{address}/24", "dev", "cable")
                self._run("-n", host, "link", "set", "cable", "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in (*map(self.namespace, self.addresses), self._switch):
            subprocess.run([self._ip, "netns", "delete", name], capture_output=True, check=False)

    def namespace(self, name: str) -> str:
        """Return the name of a host's namespace."""
        return f"{self._prefix}-{name}"

    def command(self, name: str) -> Sequence[str]:
        """Return the beginning of a command line that runs the rest on a host."""
        return self._ip, "netns", "exec", self.namespace(name)

    def enter(self, name: str) -> None:
        """Move the calling thread to a host: the sockets that it makes from now on are there."""
        with open(f"/run/netns/{self.namespace(name)}") as file:  # noqa: PTH123 - its descriptor is wanted
            if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _NEW_NETWORK):
                raise OSError(ctypes.get_errno(), "setns")

    def within(self, name: str, what: Callable[[], Any]) -> Any:
        """Call a function whose sockets belong to a host, and return its result."""
        answers: list[Any] = []

        def work() -> None:
            try:
                self.enter(name)
                answers.append(what())
            except BaseException as error:  # noqa: BLE001 - raised again where it was asked for
                answers.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        if isinstance(answers[0], BaseException):
            raise answers[0]
        return answers[0]

    def cut(self, name: str) -> None:
        """Unplug a host's cable."""
        self._run("-n", self._switch, "link", "set", self._port(name), "down")

    def mend(self, name: str) -> None:
        """Plug a host's cable in again."""
        self._run("-n", self._switch, "link", "set", self._port(name), "up")

    def mute(self, name: str, towards: str) -> None:
        """Drop what a host sends to another one, and nothing in the other direction."""
        self._run("-n", self.namespace(name), "route", "add", "blackhole", f"{self.addresses[towards]}/32")

    def unmute(self, name: str, towards: str) -> None:
        """Deliver again what a host sends to another one."""
        self._run("-n", self.namespace(name), "route", "delete", "blackhole", f"{self.addresses[towards]}/32")

    def _port(self, name: str) -> str:
        return f"port{list(self.addresses).index(name)}"

    def _make(self, name: str) -> None:
        self._run("netns", "add", name)
        self._run("-n", name, "link", "set", "lo", "up")

    def _run(self, *words: str) -> None:
        done = subprocess.run([self._ip, *words], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.fail(f"ip {' '.join(words)}: {done.stderr}")
