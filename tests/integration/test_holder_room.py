"""How much room each pool has around a replace: nobody is left narrower than the budget allows, and nobody goes beyond it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import psycopg
import pytest
from psycopg_pool import AsyncNullConnectionPool, TooManyRequests

from tests.pools import PATIENCE, Holder, MakePool, holding
from tests.waiting import eventually
from vault_pg.dev import EmbeddedPostgres
from vault_pg.pool import farewell, handover

NEVER = 36000.0
"""Seconds; what has to wait for as long fails its test."""


@dataclass
class Gate:
    """A configure hook that lets so many logins pass, and holds up the others until it is opened."""

    passes: int
    logins: int = 0
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    opened: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, _: object) -> None:
        self.logins += 1
        if self.logins > self.passes:
            self.reached.set()
            await self.opened.wait()


def sessions(postgres: EmbeddedPostgres, application: str) -> int:
    """By the server's count."""
    with postgres.admin() as conn:
        row = conn.execute("select count(*) from pg_stat_activity where application_name = %s", [application]).fetchone()
        assert row is not None
        return int(row[0])


async def ask_in_vain(holder: Holder) -> None:
    """A client that makes the pool grow, and goes away as soon as the login has begun."""
    before = holder._current.pool._nconns
    asking = asyncio.create_task(holder.getconn(PATIENCE))
    await eventually(lambda: holder._current.pool._nconns > before)
    asking.cancel()
    await asyncio.wait({asking})


async def test_a_handover_that_runs_out_of_time_does_not_leave_the_new_pool_narrowed(make_pool: MakePool) -> None:
    gate = Gate(passes=1)
    async with holding(make_pool(min_size=4, max_size=4), overlap=1) as holder:
        replacement = await holder.replace(make_pool(min_size=2, max_size=4, configure=gate), drain_timeout=2)
        await replacement.drained
        await gate.reached.wait()
        gate.opened.set()
        await holder.wait(PATIENCE)
        await eventually(lambda: not holder._current._under_way)
        assert holder._current.cap == 4


async def test_one_long_borrower_of_the_old_pool_does_not_narrow_the_new_one(
    make_pool: MakePool, postgres: EmbeddedPostgres
) -> None:
    named = {"application_name": "long borrower"}
    async with holding(make_pool(min_size=1, max_size=4, kwargs=named), overlap=1) as holder:
        conns = [await holder.getconn(PATIENCE) for _ in range(4)]
        for conn in conns[1:]:
            await holder.putconn(conn)
        replacement = await holder.replace(make_pool(min_size=1, max_size=4, kwargs=named))
        assert holder._current.cap == 4
        conns[1:] = [await holder.getconn(PATIENCE) for _ in range(4)]
        await eventually(lambda: sessions(postgres, "long borrower") == 5)
        for conn in conns:
            await holder.putconn(conn)
        await replacement.drained


@pytest.mark.parametrize("moment", ["warm", "proof"])
async def test_a_connection_of_an_earlier_drain_that_comes_back_late_widens_nothing(moment: str, make_pool: MakePool) -> None:
    caps = list[int]()
    async with holding(make_pool(min_size=2, max_size=4), overlap=1) as holder:
        late = await holder.getconn(PATIENCE)
        await (await holder.replace(make_pool(min_size=2, max_size=4), drain_timeout=0)).drained
        await holder.wait(PATIENCE)

        async def come_back() -> None:
            caps.append(holder._current.cap)
            await holder.putconn(late)
            caps.append(holder._current.cap)

        logins = 0

        async def configure(_: object) -> None:
            nonlocal logins
            logins += 1
            if moment == "warm" and logins == 2:
                await come_back()

        async def prove(_: object) -> None:
            if moment == "proof":
                await come_back()

        await holder.replace(make_pool(min_size=2, max_size=4, configure=configure), prove=prove)
    assert caps == [3, 3]


async def test_after_a_refusal_the_next_pool_gets_its_min_size(make_pool: MakePool) -> None:
    async with holding(make_pool(min_size=4, max_size=8)) as holder:
        holder.refuse("the lease has ended")
        await holder.drained()
        await (await holder.replace(make_pool(min_size=4, max_size=8))).drained
        assert holder._current.pool.min_size == 4
        await holder.wait(PATIENCE)
        assert holder._current.available == 4


async def test_a_login_of_the_old_pool_does_not_outlive_its_retirement(make_pool: MakePool, postgres: EmbeddedPostgres) -> None:
    # What pytest keeps of the log holds the login's error, and that its frames.
    gate, named = Gate(passes=1), {"application_name": "late login"}
    pool = make_pool(min_size=1, max_size=2, configure=gate, kwargs=named)
    async with holding(pool, overlap=1) as holder:
        conns = [await holder.getconn(PATIENCE)]
        await ask_in_vain(holder)
        await gate.reached.wait()
        replacement = await holder.replace(make_pool(min_size=1, max_size=2, kwargs=named), drain_timeout=300)
        conns += [await holder.getconn(PATIENCE) for _ in range(2)]
        try:
            await eventually(lambda: sessions(postgres, "late login") == 3, "no session but those of the borrowers")
        finally:
            gate.opened.set()
        for conn in conns:
            await holder.putconn(conn)
        await replacement.drained


async def test_a_pool_that_gives_up_connections_while_it_grows_opens_none_in_their_place(make_pool: MakePool) -> None:
    gate, counts = Gate(passes=4), list[int]()
    old = make_pool(min_size=4, max_size=5, configure=gate)
    logins = 0

    async def configure(_: object) -> None:
        nonlocal logins
        logins += 1
        if logins == 3:  # the old pool has given up two, and has less than its min_size
            gate.opened.set()
            await eventually(lambda: not old._growing or old.closed)
            counts.append(sum(generation.size for generation in holder._alive()))

    async with holding(old, overlap=1) as holder:
        conns = [await holder.getconn(PATIENCE) for _ in range(4)]
        await ask_in_vain(holder)
        await gate.reached.wait()
        for conn in conns:
            await holder.putconn(conn)
        await (await holder.replace(make_pool(min_size=4, max_size=5, configure=configure))).drained
        await holder.wait(PATIENCE)
    assert counts
    assert max(counts) <= 6


async def test_a_slow_proof_does_not_narrow_a_null_pool_that_serves(conninfo: str) -> None:
    def make_null() -> AsyncNullConnectionPool[psycopg.AsyncConnection]:
        return AsyncNullConnectionPool(conninfo, max_size=4, open=False)

    async with holding(make_null(), overlap=1) as holder:

        async def prove(_: object) -> None:
            assert holder._current.pool.max_size == 4
            for conn in [await holder.getconn(PATIENCE) for _ in range(4)]:
                await holder.putconn(conn)

        assert (await holder.replace(make_null(), prove=prove)).generation == 2


async def test_max_waiting_is_kept_while_the_old_pool_drains(make_pool: MakePool) -> None:
    conns = list[psycopg.AsyncConnection]()
    async with holding(make_pool(min_size=2, max_size=4, max_waiting=3), overlap=1) as holder:

        async def prove(_: object) -> None:
            conns.extend([await holder.getconn(PATIENCE) for _ in range(2)])

        replacement = await holder.replace(make_pool(min_size=2, max_size=4), prove=prove)
        conns += [await holder.getconn(PATIENCE) for _ in range(3)]
        assert holder._current.cap == 3
        # One more than the limit may wait: for the connection that the drain withholds.
        asking = [asyncio.create_task(holder.getconn(PATIENCE)) for _ in range(4)]
        await eventually(lambda: holder.get_stats()["requests_waiting"] == 4)
        with pytest.raises(TooManyRequests):
            await holder.getconn(timeout=1)  # refused at once
        for conn in conns:
            await holder.putconn(conn)
        for task in asking:
            await holder.putconn(await task)
        await replacement.drained


async def test_a_pool_that_is_not_wanted_has_its_part_of_the_budget_until_it_is_closed(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    caps: list[int] = []
    async with holding(make_pool(min_size=2, max_size=4), overlap=1) as holder:
        unwanted = make_pool(min_size=2, max_size=4)
        close = unwanted.close

        async def closing(timeout: float = 5.0) -> None:
            await close(timeout)
            caps.append(holder._current.cap)

        monkeypatch.setattr(unwanted, "close", closing)

        async def prove(_: object) -> None:
            raise LookupError

        with pytest.raises(LookupError):
            await holder.replace(unwanted, prove=prove)
        assert caps == [3]
        assert holder._current.cap == 4


@pytest.mark.parametrize("out", [0, 5])
async def test_a_pool_that_was_made_narrower_is_within_its_budget_before_the_next_one_logs_in(
    out: int, make_pool: MakePool, postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover, "MOST", NEVER)
    monkeypatch.setattr(farewell, "PATIENCE", NEVER)
    counts, named = list[int](), {"application_name": f"narrower, {out} out"}

    async def configure(_: object) -> None:
        counts.append(sessions(postgres, named["application_name"]))

    async with holding(make_pool(min_size=6, max_size=6, kwargs=named), overlap=1) as holder:
        conns = [await holder.getconn(PATIENCE) for _ in range(out)]
        old = holder._current
        await holder.resize(2, 2)
        replacing = asyncio.create_task(
            holder.replace(make_pool(min_size=2, max_size=2, configure=configure, kwargs=named), drain_timeout=4 * NEVER)
        )
        await eventually(lambda: not old.available)
        for conn in conns:
            await holder.putconn(conn)
        await (await replacing).drained
        await holder.wait(PATIENCE)
    assert counts
    assert max(counts) <= 2 + 1


async def test_a_borrower_of_a_pool_that_was_made_narrower_holds_up_no_replace(make_pool: MakePool) -> None:
    async with holding(make_pool(min_size=3, max_size=3), overlap=1) as holder:
        conns = [await holder.getconn(PATIENCE) for _ in range(3)]
        await holder.resize(1, 1)
        replacement = await holder.replace(make_pool(min_size=1, max_size=1), drain_timeout=0.2)
        assert len((await replacement.drained).cut_off) == 3
        for conn in conns:
            await holder.putconn(conn)
