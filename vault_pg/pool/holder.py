"""HotSwapPool: the one pool object that a service keeps, whatever pools come and go behind it."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any, Literal, TypeVar, TypeVarTuple, overload

from psycopg import Notify
from psycopg_pool.abc import ACT

from vault_pg.pool.checkout import Checkout
from vault_pg.pool.generation import Borrow
from vault_pg.pool.idle import idle_checkout
from vault_pg.pool.info import ConnectionInfo, info_of
from vault_pg.pool.lifetime import Lifetime
from vault_pg.pool.notifications import Notifications, listen
from vault_pg.pool.retirement import Retirement
from vault_pg.pool.retry import DEFAULT, Retry, RetryPolicy
from vault_pg.pool.serving import CheckoutRefused
from vault_pg.pool.subscription import Gap
from vault_pg.pool.transaction import transaction

__all__ = ["CheckoutRefused", "HotSwapPool"]

ArgTs = TypeVarTuple("ArgTs")
ResultT = TypeVar("ResultT")


class HotSwapPool(Lifetime[ACT]):
    """An AsyncConnectionPool whose connections come from another pool, which `replace()` exchanges under load.

    It does what psycopg_pool's documentation says of a pool, and keeps doing it across replacements: a checkout that waits goes on
    waiting in the same line, one that holds a connection keeps it until it returns it, and none fails for the swap.

    `doubt` is called when a query fails in a way that makes the credential doubtful. `expired` is asked at each checkout: True where the
    credential has ended, and `refuse()` has been called for it; a timer may come late, after a suspend or in a loop that was blocked.
    `managed` means that somebody else ends it, by `finish()`: then `close()` and leaving `async with` do nothing but say so.
    `overlap` is how many server connections the process may hold beyond `max_size` while two pools are alive (default `min_size`, at
    least 1). `drain_timeout` is how many seconds the borrowers of a replaced pool may keep their connections.
    """

    __slots__ = ()

    def try_connection(self) -> AbstractAsyncContextManager[ACT | None]:
        """As `connection()`, or None if none is idle right now: it waits for no connection, neither opened nor returned.

        Raises PoolClosed, and NoCredential while no credential works.
        """
        frame = sys._getframe(1)
        return idle_checkout(self, (frame.f_code, frame.f_lineno))

    def transaction(
        self, timeout: float | None = None, *, savepoint_name: str | None = None, force_rollback: bool = False
    ) -> AbstractAsyncContextManager[ACT]:
        """Obtain a connection and BEGIN; on exit COMMIT, or roll back on an error, and return it. The options are psycopg's.

        Leaving the block without an error means that it is committed: where a failed statement or a lost connection makes that
        impossible psycopg.Error is raised, even if the block has caught what it was told.
        """
        frame = sys._getframe(1)
        return transaction(Checkout(self, timeout, (frame.f_code, frame.f_lineno)), savepoint_name, force_rollback)

    def run_transaction(
        self,
        fn: Callable[[ACT, *ArgTs], Awaitable[ResultT]],
        *args: *ArgTs,
        attempts: int | None = None,
        policy: RetryPolicy = DEFAULT,
        timeout: float | None = None,
    ) -> Coroutine[Any, Any, ResultT]:
        """Run `await fn(conn, *args)` in a transaction, commit it and return its result.

        It is run again, with a connection of its own, after a serialization failure, a deadlock or another of `policy.codes`, also
        where COMMIT is answered with it; on a connection that is lost before COMMIT is sent; on 42501 and 42704 where the generation
        has retired or its role is gone; and on a statement that the drain of its generation cancels. `fn` may so be called more than
        once: what it does beside the transaction has to bear that. `attempts` stands above the policy's. After the last attempt the
        error of `fn` is raised as it is; so are psycopg.Rollback, and the errors of a checkout.

        Once COMMIT is sent nothing is run again: if the connection is lost then, CommitOutcomeUnknown is raised. A cancellation is
        never held back; one that strikes during COMMIT leaves the outcome as unknown.
        """
        if not callable(fn):
            raise TypeError(f"run_transaction() takes a coroutine function of a connection, not a {type(fn).__name__}")
        frame = sys._getframe(1)
        if attempts is not None:
            policy = replace(policy, attempts=attempts)
        return Retry(self, lambda conn: fn(conn, *args), policy, timeout, (frame.f_code, frame.f_lineno)).run()

    @overload
    def listen(
        self, channel: str, *channels: str, gaps: Literal[False] = ..., timeout: float | None = ..., heartbeat: float = ...
    ) -> Notifications[Notify]: ...
    @overload
    def listen(
        self, channel: str, *channels: str, gaps: Literal[True], timeout: float | None = ..., heartbeat: float = ...
    ) -> Notifications[Notify | Gap]: ...
    def listen(
        self, channel: str, *channels: str, gaps: bool = False, timeout: float | None = None, heartbeat: float = 30.0
    ) -> Notifications[Any]:
        """Notifications on these channels, over all replacements: an async iterator, and a context manager to begin and end it.

        It holds one connection, two for a moment while it moves to the next generation. What is committed after it has begun comes
        once and in the order of the commits, also over a replace, which it listens across on both sides. There are two exceptions. A
        lost connection is replaced, but what was sent meanwhile is missed: that is logged as NotificationsMissed, and with
        `gaps=True` told by a Gap in its place; some from around the loss may come twice. And a replace by a pool of another database
        has no common order: it brings what the old one sent until the new one listened, then what the new one sends.

        `timeout` is that of a checkout. A connection that is silent for `heartbeat` seconds is asked, and given up for lost if it
        does not answer for as long.
        """
        frame = sys._getframe(1)
        place = (frame.f_code, frame.f_lineno)
        return listen(self, (channel, *channels), gaps=gaps, timeout=timeout, heartbeat=heartbeat, place=place)

    def connection_info(self, conn: ACT) -> ConnectionInfo:
        """What there is to know of a connection that is out: generation, lease, age, idle time, checkouts, who asked for it."""
        return info_of(self._borrow_of(conn))

    def retiring(self, conn: ACT) -> Retirement:
        """The signal that the generation of a connection that is out retires: a flag to test, and an awaitable."""
        return Retirement(self._borrow_of(conn).generation)

    def _borrow_of(self, conn: ACT) -> Borrow[ACT]:
        try:
            generation, since, task, (code, line) = self._loan(conn)
        except KeyError:
            raise ValueError(
                f"the pool {self.name!r} has not given this connection out, or has it back: ask while you hold it"
            ) from None
        return Borrow(conn, generation, since, task.get_name() if task else "no task", f"{code.co_filename}:{line}")
