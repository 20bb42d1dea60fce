"""The line in front of the holder, on virtual time."""

from __future__ import annotations

import asyncio

import pytest

from vault_pg.pool.queue import WaitingLine

pytestmark = [pytest.mark.asyncio, pytest.mark.looptime]


def a_line() -> tuple[WaitingLine[str], list[str]]:
    passed_on: list[str] = []
    return WaitingLine[str](passed_on.append), passed_on


async def waiter(line: WaitingLine[str], timeout: float = 10.0, *, first: bool = False) -> asyncio.Task[str]:
    task = asyncio.create_task(line.wait(timeout, first=first))
    await asyncio.sleep(0)
    return task


async def test_first_come_first_served() -> None:
    line, _ = a_line()
    one, two = await waiter(line), await waiter(line)
    assert line.hand_over("a")
    assert line.hand_over("b")
    assert (await one, await two) == ("a", "b")
    assert not line.hand_over("c")


async def test_who_has_waited_before_goes_to_the_head() -> None:
    line, _ = a_line()
    later = await waiter(line)
    moved = await waiter(line, first=True)
    line.hand_over("a")
    assert await moved == "a"
    line.hand_over("b")
    assert await later == "b"


async def test_a_time_out_leaves_the_line() -> None:
    line, _ = a_line()
    with pytest.raises(TimeoutError):
        await line.wait(5.0)
    assert asyncio.get_running_loop().time() == 5
    assert len(line) == 0
    assert not line.hand_over("a")


async def test_a_cancelled_client_leaves_the_line() -> None:
    line, _ = a_line()
    gone, next_one = await waiter(line), await waiter(line)
    gone.cancel()
    await asyncio.wait([gone])
    assert len(line) == 1
    line.hand_over("a")
    assert await next_one == "a"


async def test_a_place_handed_to_a_client_that_is_cancelled_in_the_same_tick_is_passed_on() -> None:
    line, passed_on = a_line()
    unlucky = await waiter(line)
    line.hand_over("a")
    unlucky.cancel()
    await asyncio.wait([unlucky])
    assert unlucky.cancelled()
    assert passed_on == ["a"]


async def test_everybody_can_be_sent_away_each_with_an_error_of_their_own() -> None:
    line, _ = a_line()
    clients = [await waiter(line) for _ in range(3)]
    line.fail(lambda: RuntimeError("no"))
    await asyncio.wait(clients)
    errors = [client.exception() for client in clients]
    assert len(set(map(id, errors))) == 3
    assert len(line) == 0
