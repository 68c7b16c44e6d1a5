"""The process that forks: single-threaded, and the same after many flow runs."""

import psutil

from tests.services.prefect_process import wait_until

RUNS = 8


def test_it_stays_single_threaded_and_leaks_nothing(worker, deployments):
    def settled():
        """Run a few flows; return descriptors and memory of worker and fork server once the runs are over."""
        flow_runs = [worker.submit(deployments["lines"], count=1) for _ in range(RUNS // 2)]
        for flow_run in flow_runs:
            assert worker.wait(flow_run)["state_type"] == "COMPLETED"
        server = psutil.Process(worker.fork_server)
        wait_until(lambda: not server.children())
        assert server.num_threads() == 1
        return server, (server.num_fds(), psutil.Process(worker.process.pid).num_fds())

    server, before = settled()
    memory = server.memory_info().rss
    again, after = settled()
    assert again.pid == server.pid
    assert after[0] == before[0]
    # The worker's own connections to Prefect come and go by one or two.
    assert after[1] <= before[1] + 3
    assert server.memory_info().rss < memory * 1.02


def test_a_module_that_starts_a_thread_is_left_out_and_the_log_says_so(worker):
    assert worker.says("Not preloading starts_a_thread: importing it starts a thread")
    # Nothing of the default list is.
    left_out = {line.partition("Not preloading ")[2].split(":")[0] for line in worker.log.read_text().splitlines()}
    assert left_out == {"", "starts_a_thread"}
    assert worker.says("not installed: not_installed_here")
