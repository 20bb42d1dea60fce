"""The pool of one lease: proven before it is opened, and with a reason when it can't be filled."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from heapq import heapify
from inspect import isawaitable
from time import monotonic
from typing import Any, cast

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout
from psycopg_pool._task import Task
from psycopg_pool.abc import ACT
from psycopg_pool.pool_async import AddConnection, MaintenanceTask
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from vault_pg.errors import DatabaseError, DatabaseUnavailable, ProofFailed, VaultPgError
from vault_pg.lease import Credential
from vault_pg.place import told
from vault_pg.pool.check import Check, checked
from vault_pg.pool.connector import Connector, target
from vault_pg.pool.farewell import sever
from vault_pg.pool.faults import login_fault
from vault_pg.settings import DatabaseSettings

LONGEST_PAUSE = 3.0
"""Seconds between two attempts to replace a lost connection. psycopg_pool doubles the pause each time: a server that is back after
minutes would be found again after as long."""

MOMENT = 0.05
"""Seconds before the deadline of a proof at which its connection is severed."""


class LeasedPool(AsyncConnectionPool[ACT]):
    """An AsyncConnectionPool that opens its connections with a leased credential, kept out of `conninfo` and `kwargs`."""

    def __init__(self, connector: Connector[ACT], settings: DatabaseSettings, name: str, lease_id: str | None = None) -> None:
        super().__init__(
            settings.conninfo,
            connection_class=cast(type[ACT], connector),
            kwargs=settings.kwargs,
            min_size=settings.min_size,
            max_size=settings.max_size,
            open=False,
            configure=settings.configure,
            check=_check(settings),
            reset=settings.reset,
            reconnect_failed=settings.reconnect_failed,
            name=name,
            timeout=settings.timeout,
            max_waiting=settings.max_waiting,
            max_lifetime=settings.max_lifetime,
            max_idle=settings.max_idle,
            close_returns=settings.close_returns,
            reconnect_timeout=settings.reconnect_timeout,
            num_workers=settings.num_workers,
        )
        self.connector = connector
        self.lease_id = lease_id
        """Of the credential, for `connection_info()`."""

    async def wait(self, timeout: float = 30.0) -> None:
        """As psycopg_pool's, but a time-out raises DatabaseError with the reason of the last failed login.

        The proven connection of a pool that keeps none is closed: nobody has asked for a session yet.
        """
        try:
            await super().wait(timeout)
        except PoolTimeout as error:
            raise self.reason(error) from None
        await self.connector.close()

    def reason(self, error: psycopg.Error) -> DatabaseError:
        """Why the pool could not be opened or filled, as far as is known."""
        where = target(str(self.conninfo))
        return self.connector.last_error or ProofFailed(
            f"the new pool at {where} could not be filled: {error}; is the configure hook failing, or the server slow?"
        )

    async def schedule_task(self, task: MaintenanceTask, delay: float) -> None:
        if isinstance(task, AddConnection):
            delay = min(delay, self._jitter(LONGEST_PAUSE, -0.1, 0.1))
        await super().schedule_task(task, delay)

    def exchange(self, credential: Credential) -> None:
        """Open connections with this credential from now on. Those that are open stay."""
        self.connector.credential = credential
        if self._opened and not self.closed:
            self._try_again_now()

    def _try_again_now(self) -> None:
        """Logins that failed and wait for their next attempt, which may be minutes away, need wait no longer."""
        queue, now = self._sched._queue, monotonic()
        queue[:] = [
            Task(now, task.action) if isinstance(getattr(task.action, "__self__", None), AddConnection) else task
            for task in queue
        ]
        heapify(queue)
        self._sched._event.set()

    @property
    def login_failure(self) -> DatabaseError | None:
        """Why connections are missing that it should have; None where it has them all, whatever failed before."""
        connector = self.connector
        missing = connector.last_error is not None and len(connector.opened) < self._nconns
        return connector.last_error if missing else None

    async def close(self, timeout: float = 5.0) -> None:
        await super().close(timeout)
        await self.connector.close()


def _check(settings: DatabaseSettings) -> Check | None:
    return settings.check if settings.check_interval is None else checked(settings.check_interval, also=settings.check)


async def build(
    credential: Credential,
    settings: DatabaseSettings,
    *,
    name: str,
    lease_id: str | None = None,
    no_slot: Callable[[], Awaitable[object]] | None = None,
) -> LeasedPool[psycopg.AsyncConnection[Any]]:
    """A pool, proven but not open yet: logged in, `select current_user`, the user's own probe.

    What may pass (server starting, no slot left, a replica that has not seen the role yet) is tried again for
    `settings.build_timeout` seconds; after that, and for what will not pass, raises DatabaseError. Leaves no connection behind then.
    `no_slot` is awaited once, if the server has no connection slot left.
    """
    connector = Connector(credential, settings.connection_class or psycopg.AsyncConnection)
    pool = LeasedPool(connector, settings, name, lease_id)
    await _prove_in_time(connector, settings, settings.build_timeout, no_slot)
    return pool


async def _prove_in_time(
    connector: Connector[Any],
    settings: DatabaseSettings,
    patience: float,
    no_slot: Callable[[], Awaitable[object]] | None = None,
) -> None:
    """What may pass is tried again for `patience` seconds."""
    deadline = asyncio.get_running_loop().time() + patience

    def give_up(_: RetryCallState) -> bool:
        return asyncio.get_running_loop().time() >= deadline

    async def make_room(state: RetryCallState) -> None:
        nonlocal no_slot
        error = state.outcome and state.outcome.exception()
        if no_slot is not None and isinstance(error, DatabaseUnavailable) and error.too_many_clients:
            told, no_slot = no_slot, None
            await told()

    try:
        async with asyncio.timeout_at(deadline):
            async for attempt in AsyncRetrying(
                retry=retry_if_exception(lambda error: isinstance(error, VaultPgError) and bool(error.transient)),
                wait=wait_random_exponential(multiplier=0.1, max=2.0),
                stop=give_up,
                sleep=asyncio.sleep,
                before_sleep=make_room,
                reraise=True,
            ):
                with attempt:
                    await _prove(connector, settings, deadline)
    except TimeoutError:
        await connector.close()
        raise connector.last_error or _silent(settings, patience) from None


async def prove_login(
    credential: Credential, settings: DatabaseSettings, *, patience: float = 0.0, within: float = math.inf
) -> None:
    """One login and `select current_user`, to see whether the credential works; what may pass is tried again for `patience` seconds.

    Without patience it is over `within` seconds, whatever the server does. Raises DatabaseError; leaves no connection.
    """
    connector = Connector(credential, settings.connection_class or psycopg.AsyncConnection)
    alone = settings.model_copy(update={"configure": None, "probe": None})
    if patience:
        await _prove_in_time(connector, alone, patience)
    else:
        await _prove_once(connector, alone, within)
    await connector.close()


async def _prove_once(connector: Connector[Any], settings: DatabaseSettings, within: float) -> None:
    deadline = asyncio.get_running_loop().time() + within
    try:
        async with asyncio.timeout_at(deadline if within < math.inf else None):
            await _prove(connector, settings, deadline)
    except TimeoutError:
        raise _silent(settings, within) from None


def _silent(settings: DatabaseSettings, seconds: float) -> DatabaseUnavailable:
    return DatabaseUnavailable(
        f"PostgreSQL at {target(settings.conninfo)} did not answer within {seconds:.0f} s: check conninfo and server"
    )


async def _run(what: str, hook: Callable[[Any], Awaitable[object]] | None, conn: psycopg.AsyncConnection[Any]) -> None:
    """Run a hook of the user's, if there is one; what it raises is told by type and place, for its text may hold a secret."""
    if hook is None:
        return
    try:
        waiting = hook(conn)
        if isawaitable(waiting):
            await waiting
            return
    except (psycopg.Error, DatabaseError):
        raise
    except Exception as error:  # noqa: BLE001 - anything may be raised by a function of the user's
        raise ProofFailed(f"{what} failed on a new connection: {told(error)}") from None
    raise ProofFailed(f"{what} returned a {type(waiting).__name__}: make it a coroutine function (async def)")


async def _prove(connector: Connector[Any], settings: DatabaseSettings, deadline: float) -> None:
    """One login, shown to work; the pool gets the connection as its first, unless it has to configure it again.

    By the deadline (loop time) the caller cancels it. Of a statement psycopg then tries for ten seconds to see a good end, on a server
    that has fallen silent too: so a moment before the connection is severed.
    """
    try:
        conn = await connector.connect(settings.conninfo, **settings.kwargs)
    except psycopg.Error:
        raise connector.last_error or DatabaseUnavailable("PostgreSQL cannot be reached") from None
    alarm = asyncio.get_running_loop().call_at(deadline - MOMENT, sever, conn) if deadline < math.inf else None
    try:
        await _run("the configure hook", settings.configure, conn)
        await conn.execute("select current_user")
        await _run("the probe", settings.probe, conn)
        await conn.rollback()
    except psycopg.Error as error:
        await conn.close()
        raise login_fault(error, connector.credential.username, target(settings.conninfo)) from None
    except DatabaseError:
        await conn.close()
        raise
    except BaseException:
        await conn.close()
        raise
    finally:
        if alarm is not None:
            alarm.cancel()
    if settings.configure is None and settings.probe is None:  # else it is not as new: what they set would reach a client
        connector.keep(conn)
    else:
        await conn.close()
