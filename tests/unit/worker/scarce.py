"""A worker's part in a process of its own, on a system that refuses something; run by `test_scarcity.py`.

``python -m tests.unit.worker.scarce fork|descriptor|pidfd``: what the system refuses. Prints what came of it, as JSON.
"""

import asyncio
import ctypes
import json
import os
import resource
import struct
import sys
from pathlib import Path

import psutil

from bluesky_prefect.worker.forkserver._pool import ForkServerPool
from bluesky_prefect.worker.forkserver._protocol import Job

PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2
# The number of the system call is the same on every architecture.
PIDFD_OPEN, ENOSYS = 434, 38
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, FAIL_WITH = 0x7FFF0000, 0x00050000


def as_before_linux_5_3() -> None:
    """Have this process and all that it starts find no system call `pidfd_open`."""
    instructions = [
        (LOAD, 0, 0, 0),
        (JUMP_IF_EQUAL, 0, 1, PIDFD_OPEN),
        (RETURN, 0, 0, FAIL_WITH | ENOSYS),
        (RETURN, 0, 0, ALLOW),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in instructions))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(instructions), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    assert libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0) == 0
    try:
        os.pidfd_open(os.getpid())
    except OSError:
        return
    raise AssertionError("the system call is still there")


async def work(scarce: str) -> dict[str, object]:
    forks = ForkServerPool(os.environ)
    job = Job(environment=dict(os.environ), directory=Path.cwd(), output=False, arguments=["not-a-flow-run"])
    try:
        await forks.preload(["prefect.engine"])
        server = forks.pid
        under_way = await forks.fork()
        if scarce == "pidfd":
            return {"code": await under_way.run(job), "same server": forks.pid == server}
        limit, most = {
            "fork": (resource.RLIMIT_NPROC, 1),
            "descriptor": (resource.RLIMIT_NOFILE, psutil.Process(server).num_fds()),
        }[scarce]
        before = resource.prlimit(server, limit)
        resource.prlimit(server, limit, (most, before[1]))
        refused = asyncio.ensure_future(forks.fork())
        await asyncio.sleep(2.0)
        waits = not refused.done()
        other = await under_way.run(job)
        resource.prlimit(server, limit, before)
        code = await (await refused).run(job)
        return {"waits": waits, "other": other, "code": code, "same server": forks.pid == server}
    finally:
        await forks.close()


if __name__ == "__main__":
    if sys.argv[1] == "pidfd":
        as_before_linux_5_3()
    print(json.dumps(asyncio.run(work(sys.argv[1]))))
