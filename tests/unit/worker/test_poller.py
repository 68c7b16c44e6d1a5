"""When the worker looks for flow runs."""

import asyncio

from bluesky_prefect.worker._poller import Poller


def test_calls_during_a_look_are_one_more_and_a_failure_is_one_too():
    async def test():
        looks = []
        third = asyncio.Event()

        async def look():
            looks.append(len(looks))
            if len(looks) == 1:
                poller.poll_now()
                poller.poll_now()
                await asyncio.sleep(0)
            elif len(looks) == 2:
                raise RuntimeError("503")
            else:
                third.set()

        poller = Poller(look)
        serving = asyncio.ensure_future(poller.serve())
        poller.poll_now()
        await asyncio.wait_for(third.wait(), 30)
        await asyncio.sleep(0)
        serving.cancel()
        assert looks == [0, 1, 2]

    asyncio.run(test())


def test_of_several_later_looks_the_earliest_is_kept():
    async def test():
        looked = asyncio.Event()

        async def look():
            looked.set()

        poller = Poller(look)
        serving = asyncio.ensure_future(poller.serve())
        poller.poll_in(3600)
        poller.poll_in(0.01)
        poller.poll_in(1800)
        await asyncio.wait_for(looked.wait(), 30)
        serving.cancel()

    asyncio.run(test())
