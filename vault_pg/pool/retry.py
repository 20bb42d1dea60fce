"""Transactions that are run again for a conflict, a lost connection or a credential that has gone, and never after their COMMIT."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import psycopg
from psycopg import errors
from psycopg_pool.abc import ACT
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from vault_pg.errors import CommitOutcomeUnknown
from vault_pg.pool.check import DEAD, ask
from vault_pg.pool.checkout import Checkout
from vault_pg.pool.generation import Generation, Place
from vault_pg.pool.transaction import insist_on_commit

if TYPE_CHECKING:
    from vault_pg.pool.holder import HotSwapPool

T = TypeVar("T")

CONFLICTS = frozenset({"40001", "40P01", "OC000", "OC001"})
"""Serialization failure, deadlock; Aurora DSQL's conflicts on data and on schema."""

NO_ANSWER = ("08007", "40003")
"""The server itself says that it does not know what became of the transaction."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how soon `run_transaction()` runs a transaction again.

    Before attempt n + 1 it waits a random time between 0 and `base * 2**(n - 1)` seconds, at most `cap` (full jitter).
    """

    attempts: int = 5
    """All in all, the first included; 1 never runs it again."""
    base: float = 0.05
    cap: float = 2.0
    codes: frozenset[str] = CONFLICTS
    """SQLSTATEs that running it again may cure."""

    def __post_init__(self) -> None:
        # True and False are numbers to Python; here they are a mistake.
        if isinstance(self.attempts, bool) or self.attempts < 1:
            raise ValueError(f"RetryPolicy: attempts is {self.attempts}, give at least 1, which is the first one")
        if any(isinstance(seconds, bool) or seconds < 0 for seconds in (self.base, self.cap)):
            raise ValueError(f"RetryPolicy: base is {self.base} and cap {self.cap}, give seconds of 0 or more")
        object.__setattr__(self, "codes", frozenset(self.codes))


DEFAULT = RetryPolicy()


class CommitInDoubt(CommitOutcomeUnknown, psycopg.OperationalError):
    """CommitOutcomeUnknown as a transaction raises it: psycopg's OperationalError too, as every lost connection."""


class Retry(Generic[T, ACT]):
    """One transaction of a holder, run until it is committed or cannot be."""

    def __init__(
        self,
        holder: HotSwapPool[ACT],
        work: Callable[[ACT], Awaitable[T]],
        policy: RetryPolicy,
        timeout: float | None,
        place: Place,
    ) -> None:
        self._holder = holder
        self._work = work
        self._policy = policy
        self._timeout = timeout
        self._place = place
        self._curable = False
        """Running it again may cure what made the last attempt fail."""

    async def run(self) -> T:
        attempts = AsyncRetrying(
            retry=retry_if_exception(
                lambda error: self._curable and isinstance(error, Exception)
            ),  # no cancellation that came on the way out
            stop=stop_after_attempt(self._policy.attempts),
            wait=wait_random_exponential(multiplier=self._policy.base, max=self._policy.cap),
            sleep=asyncio.sleep,
            reraise=True,
        )
        return await attempts(self._attempt)

    async def _attempt(self) -> T:
        self._curable = committing = False
        rollback: psycopg.Rollback | None = None
        async with Checkout(self._holder, self._timeout, self._place) as conn:
            generation = self._holder._loan(conn)[0]
            try:
                async with conn.transaction():
                    try:
                        result = await self._work(conn)
                    except psycopg.Rollback as error:
                        rollback = error
                        raise
                    insist_on_commit(conn)
                    committing = True
            except psycopg.Error as error:
                if committing and (conn.closed or error.sqlstate in NO_ANSWER):
                    raise CommitInDoubt(_doubt(self._holder.name, error)) from None
                self._curable = await self._is_curable(error, conn, generation)
                raise
        if rollback is not None:
            raise rollback
        return result

    async def _is_curable(self, error: psycopg.Error, conn: ACT, generation: Generation[ACT]) -> bool:
        """The transaction is rolled back, or died with its connection."""
        if conn.closed or error.sqlstate in self._policy.codes:
            return True
        if isinstance(error, DEAD):
            return generation.retired or await _is_dead(conn)
        # At the deadline of its drain the statements of a generation are cancelled.
        return isinstance(error, errors.QueryCanceled) and generation.retired


async def _is_dead(conn: psycopg.AsyncConnection[Any]) -> bool:
    try:
        await ask(conn)
    except psycopg.Error:
        return True
    return False


def _doubt(pool: str, error: psycopg.Error) -> str:
    return (
        f"the connection of pool {pool!r} was lost after COMMIT was sent and before its answer came ({type(error).__name__}): the "
        "transaction may be committed or not, and is not run again; look in the database whether its work is there before repeating it"
    )
