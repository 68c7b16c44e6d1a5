"""Fork servers and children without a Prefect server: how they end, and what follows."""

import asyncio
import gc
import os
import resource
import signal

import psutil
import pytest

from bluesky_prefect.worker.forkserver._child_handle import UNKNOWN_CODE
from bluesky_prefect.worker.forkserver._handle import ForkServerGone
from bluesky_prefect.worker.forkserver._pool import ForkServerPool
from bluesky_prefect.worker.forkserver._protocol import Job


def run(test, tmp_path, *modules, **environment):
    """Run a test with forks that have these modules."""

    async def with_forks():
        forks = ForkServerPool({**os.environ, "PYTHONPATH": str(tmp_path), **environment})
        try:
            await forks.preload(modules)
            await test(forks)
        finally:
            await forks.close()

    asyncio.run(with_forks())


def refused(tmp_path):
    """A job that Prefect's engine refuses at once."""
    return Job(environment=dict(os.environ), directory=tmp_path, output=False, arguments=["not-a-flow-run"])


def test_a_child_ends_as_its_engine_does_and_several_do_so_at_once(tmp_path):
    async def test(forks):
        children = await asyncio.gather(*(forks.fork() for _ in range(5)))
        assert len({child.pid for child in children}) == 5
        assert await asyncio.gather(*(child.run(refused(tmp_path)) for child in children)) == [1] * 5

    run(test, tmp_path, "prefect.engine")


def test_a_worker_that_has_no_descriptor_left_forks_when_there_is_one(tmp_path):
    async def test(forks):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            forked = asyncio.ensure_future(forks.fork())
            await asyncio.sleep(0.5)
            assert not forked.done()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert await (await forked).run(refused(tmp_path)) == 1

    run(test, tmp_path, "prefect.engine")


def test_many_children_leave_nothing_behind(tmp_path):
    async def test(forks):
        async def descriptors():
            for _ in range(15):
                children = [await forks.fork() for _ in range(2)]
                await asyncio.gather(*(child.run(refused(tmp_path)) for child in children))
            server = psutil.Process(forks.pid)
            assert server.children() == []
            assert server.num_threads() == 1
            return server.num_fds(), psutil.Process().num_fds()

        # What tests before this one have left for the garbage collector may go meanwhile: it is no leak.
        gc.collect()
        (server_before, own_before), (server_after, own_after) = await descriptors(), await descriptors()
        assert server_after == server_before
        assert own_after <= own_before

    run(test, tmp_path, "prefect.engine")


def test_a_child_needs_no_fork_server_any_more(tmp_path):
    async def test(forks):
        waiting, killed = await forks.fork(), await forks.fork()
        os.kill(forks.pid, signal.SIGKILL)
        assert await waiting.run(refused(tmp_path)) == 1
        os.kill(killed.pid, signal.SIGKILL)
        assert await killed.run(refused(tmp_path)) == UNKNOWN_CODE
        assert await (await forks.fork()).run(refused(tmp_path)) == 1

    run(test, tmp_path, "prefect.engine")


def test_a_child_whose_job_never_comes_ends_with_the_worker(tmp_path):
    waiting = []

    async def test(forks):
        waiting.append(psutil.Process((await forks.fork()).pid))

    run(test, tmp_path)
    assert psutil.wait_procs(waiting, timeout=30)[0]


def test_a_cancellation_waits_for_a_large_job_to_be_sent(tmp_path):
    async def test(forks):
        child = await forks.fork()
        os.kill(child.pid, signal.SIGSTOP)
        environment = {**os.environ, "LARGE": "x" * 100_000, **{f"LARGE_{n}": "x" * 100_000 for n in range(20)}}
        job = refused(tmp_path).model_copy(update={"environment": environment})
        running, cancelling = asyncio.ensure_future(child.run(job)), asyncio.ensure_future(child.cancel())
        await asyncio.sleep(0.2)
        os.kill(child.pid, signal.SIGCONT)
        # The engine refuses the job, or is ended before it does.
        assert await asyncio.wait_for(running, 30) in (1, -signal.SIGTERM)
        await asyncio.wait_for(cancelling, 30)

    run(test, tmp_path, "prefect.engine")


def test_a_child_that_reads_neither_its_large_job_nor_a_cancellation_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr("bluesky_prefect.worker.forkserver._child_handle.CANCELLATION_GRACE_S", 0.2)

    async def test(forks):
        child = await forks.fork()
        os.kill(child.pid, signal.SIGSTOP)
        job = refused(tmp_path).model_copy(update={"environment": {"LARGE": "x" * 2_000_000}})
        running = asyncio.ensure_future(child.run(job))
        await asyncio.sleep(0)
        await asyncio.wait_for(child.cancel(), 30)
        assert await asyncio.wait_for(running, 30) == -signal.SIGKILL

    run(test, tmp_path, "prefect.engine")


def test_modules_that_replace_one_that_hangs_are_imported_at_once(tmp_path):
    (tmp_path / "hangs.py").write_text("import time\ntime.sleep(3600)\n")

    async def test(forks):
        hanging = asyncio.ensure_future(forks.preload(["hangs"]))
        child = asyncio.ensure_future(forks.fork())
        await asyncio.sleep(1.0)
        assert not child.done()
        await asyncio.wait_for(forks.preload(["prefect.engine"]), 60)
        assert await (await asyncio.wait_for(child, 60)).run(refused(tmp_path)) == 1
        await hanging

    run(test, tmp_path)


def test_a_child_that_does_not_stop_when_it_is_told_to_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr("bluesky_prefect.worker.forkserver._child_handle.GRACE_S", 0.2)

    async def test(forks):
        child = await forks.fork()
        os.kill(child.pid, signal.SIGSTOP)
        # Of two signals that wait, the system delivers SIGTERM first.
        while psutil.Process(child.pid).status() != psutil.STATUS_STOPPED:
            await asyncio.sleep(0.01)
        job = asyncio.ensure_future(child.run(refused(tmp_path)))
        await asyncio.sleep(0)
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
        assert child.returncode == -signal.SIGKILL

    run(test, tmp_path)


def test_a_child_is_stopped_also_while_its_fork_server_does_not_react(tmp_path, monkeypatch):
    monkeypatch.setattr("bluesky_prefect.worker.forkserver._child_handle.GRACE_S", 0.2)

    async def test(forks):
        child, server = await forks.fork(), forks.pid
        os.kill(child.pid, signal.SIGSTOP)
        os.kill(server, signal.SIGSTOP)
        job = asyncio.ensure_future(child.run(refused(tmp_path)))
        await asyncio.sleep(0)
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
        assert child.returncode == -signal.SIGKILL
        os.kill(server, signal.SIGCONT)

    run(test, tmp_path)


def test_a_fork_server_that_dies_of_a_module_each_time_is_given_up(tmp_path):
    (tmp_path / "deadly.py").write_text("import os\nos._exit(1)\n")

    async def test(forks):
        with pytest.raises(ForkServerGone):
            await forks.fork()

    run(test, tmp_path, "deadly")


def test_more_forks_than_fit_into_a_socket_wait_for_one_another(tmp_path):
    async def test(forks):
        children = await asyncio.gather(*(forks.fork() for _ in range(350)))
        assert len({child.pid for child in children}) == 350

    run(test, tmp_path)


def test_a_fork_server_that_does_not_react_is_ended_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr("bluesky_prefect.worker.forkserver._handle._CLOSE_TIMEOUT_S", 0.2)
    servers = []

    async def test(forks):
        servers.append(psutil.Process(forks.pid))
        os.kill(forks.pid, signal.SIGSTOP)

    run(test, tmp_path)
    assert not servers[0].is_running()


def test_a_file_that_changes_while_others_are_imported_is_noticed(tmp_path):
    (tmp_path / "first.py").write_text("VALUE = 'as it was'\n")
    change = "from pathlib import Path\nimport first\nPath(first.__file__).write_text(\"VALUE = 'changed'\\n\")\n"
    (tmp_path / "second.py").write_text(f"import first\nif first.VALUE == 'as it was':\n    exec({change!r})\n")

    async def test(forks):
        before = forks.pid
        await forks.fork()
        assert forks.pid != before

    run(test, tmp_path, "first", "second")


def test_what_a_module_writes_is_written_once(tmp_path, monkeypatch, capfd):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    (tmp_path / "talks.py").write_text("print('imported')\n")

    async def test(forks):
        for child in [await forks.fork() for _ in range(3)]:
            await child.run(refused(tmp_path).model_copy(update={"output": True}))

    run(test, tmp_path, "talks", "prefect.engine")
    assert capfd.readouterr().out.count("imported") == 1


def test_imports_that_take_long_are_told_of(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("bluesky_prefect.worker.forkserver._pool._LONG_S", 0.2)
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(1)\n")

    async def test(forks):
        await forks.fork()

    run(test, tmp_path, "slow")
    assert "is still importing, and flow runs wait for it" in caplog.text
    assert "slow" in caplog.text


def test_a_module_that_starts_a_thread_or_fails_hurts_no_other(tmp_path, caplog):
    thread = "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    (tmp_path / "threaded.py").write_text(thread)
    (tmp_path / "failing.py").write_text("raise RuntimeError('no licence')\n")
    (tmp_path / "leaving.py").write_text("raise SystemExit('no display' + 100_000 * '!')\n")

    async def test(forks):
        await forks.fork()

    run(test, tmp_path, "threaded", "failing", "leaving", "prefect.engine")
    assert "Not preloading threaded" in caplog.text
    assert "Not preloading failing: RuntimeError('no licence')" in caplog.text
    assert "Not preloading leaving: SystemExit('no display!" in caplog.text
