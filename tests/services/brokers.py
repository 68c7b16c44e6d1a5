"""Servers that pass messages on, as processes of a test's own: Redis, a Kafka broker, Bluesky's 0MQ proxy."""

import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
from pathlib import Path

from tests.conftest import missing_service
from tests.services.prefect_process import wait_until


def free_port() -> int:
    """Return a port of loopback that nobody has."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class RedisServer:
    """A Redis server that keeps nothing on disk, always at the same port.

    Parameters
    ----------
    folder : Path
        Where it runs.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()
        self.uri = f"redis://127.0.0.1:{self._port}/0"
        self.start()

    def start(self) -> None:
        """Start it; it remembers nothing of an earlier one."""
        if not (program := shutil.which("redis-server")):
            missing_service("redis-server, which Debian's package of that name has")
        options = ["--bind", "127.0.0.1", "--save", "", "--dir", str(self._folder)]
        self._process = subprocess.Popen([program, "--port", str(self._port), *options], stdout=subprocess.DEVNULL)
        wait_until(self._answers)

    def close(self) -> None:
        """End it as a power cut would, with all that it knows."""
        self._process.kill()
        self._process.wait(30)

    def subscriptions(self) -> int:
        """Return how often somebody has subscribed to a channel since it was started."""
        import redis

        with redis.Redis(port=self._port) as client:
            return client.info("commandstats").get("cmdstat_subscribe", {"calls": 0})["calls"]

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self._port), 1).close()
        except OSError:
            return False
        return True


class KafkaBroker:
    """A broker of librdkafka's own, which keeps its topics in memory.

    Attributes
    ----------
    address : str
        Its host and port.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("kafka_broker.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.address = self._answer()

    def go_away(self) -> None:
        """Have it cut its connections, and refuse others."""
        self._order("down")

    def come_back(self) -> None:
        """Have it listen again; it knows what it knew."""
        self._order("up")

    def hang(self) -> None:
        """Have it answer nobody, and refuse nobody."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """End that."""
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End it."""
        self.go_on()
        self._process.communicate(timeout=30)

    def _order(self, word: str) -> None:
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()
        assert self._answer() == word

    def _answer(self) -> str:
        return self._process.stdout.readline().strip()


class ZMQProxy:
    """``bluesky-0MQ-proxy``, always at the same two ports.

    Attributes
    ----------
    incoming, outgoing : str
        Addresses to publish to, and to listen at.
    """

    def __init__(self) -> None:
        self.incoming, self.outgoing = (f"127.0.0.1:{free_port()}" for _ in range(2))
        self.start()

    def start(self) -> None:
        """Start it; it knows nothing of an earlier one's connections."""
        program = Path(sysconfig.get_path("scripts")) / "bluesky-0MQ-proxy"
        command = [str(program), "--in-address", self.incoming, "--out-address", self.outgoing]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def close(self) -> None:
        """End it as a power cut would, with what is on its way."""
        self._process.kill()
        self._process.wait(30)
