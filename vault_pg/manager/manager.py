"""LeaseManager: everything between Vault and `get_pool()`, for as long as it is entered."""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import random
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from types import TracebackType
from typing import Any, Self

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from vault_pg import fork, schedule
from vault_pg.clock import Clock, Clocks, boottime
from vault_pg.errors import NotRunning, SettingsError, VaultPgError, astray
from vault_pg.events import (
    ClocksParted,
    Event,
    Listener,
    LoopEnded,
    ManagerStarted,
    StartDelayed,
    StatusUnavailable,
    TaskDied,
)
from vault_pg.manager import registry, stray
from vault_pg.manager.departure import Departure
from vault_pg.manager.endpoint import StatusEndpoint
from vault_pg.manager.journal import Journal
from vault_pg.manager.keeper import Keeper
from vault_pg.manager.snapshot import snapshot
from vault_pg.manager.status import Status
from vault_pg.manager.tenure import Tenure, failure, transient
from vault_pg.manager.termination import Interrupt, Termination
from vault_pg.pool import HotSwapPool, bury
from vault_pg.settings import Settings
from vault_pg.vault import VaultSession

LOOK = 1.0
"""Seconds between two looks at the clocks, at the most."""

AT_ONCE = 32
"""Databases that are opened at a time. Each is a call of Vault's in a thread of its own, then a login: a process with thousands of them
must not storm its servers, and itself, with all at once; and 32 are enough to hide the latency of each."""

BREATHER = 0.1
"""Seconds between one such number of look-ups and the next, when all databases have to look at once."""


class LeaseManager:
    """Keeps a pool with a living credential for each database of the settings.

    Entering it logs in to Vault (if any database needs that), and returns when every pool is open and proven, or raises the first
    failure: all come up or none. What may pass (Vault sealed, PostgreSQL starting, a file not written yet) is tried again for
    `start_timeout` seconds. From then on each database is on its own. Leaving it drains the pools, revokes the leases and the token
    that it logged in for, within `shutdown_timeout` seconds even when Vault is down. A SIGTERM ends the task that entered it in the
    same clean way, unless the program has a handler of its own.

    `shared=False` keeps its pools out of `vault_pg.get_pool()`. Raises VaultPgError on entering, with nothing left behind;
    SettingsError on construction.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        clock: Clock = boottime,
        wall_clock: Callable[[], float] = time.time,
        draw: Callable[[], float] = random.random,
        shared: bool = True,
    ) -> None:
        self.settings = Settings() if settings is None else settings
        if not isinstance(self.settings, Settings):
            raise SettingsError(f"LeaseManager takes a Settings, not a {type(settings).__name__}")
        self._clock = clock
        self._wall_clock = wall_clock
        self._clocks: Clocks | None = None
        self._draw = draw
        self._listeners: list[Listener] = [Journal()]
        self._keepers: dict[str, Keeper] = {}
        self._session: VaultSession | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._entered = False
        self._shared = shared
        self._endpoint: StatusEndpoint | None = None
        self._termination = Termination(self.settings.shutdown_timeout) if self.settings.handle_sigterm else None
        self._started_at: datetime | None = None
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._parent: int | None = None
        """The process that it belongs to, where that is not this one."""
        self._freed = asyncio.Event()
        self._departure: Departure | None = None
        self._leaving: asyncio.Task[None] | None = None

    # -- the public face

    def get_pool(self, name: str = "default") -> HotSwapPool:
        """The pool of a database: the same object for as long as the manager runs. Raises NotRunning."""
        keeper = self._keeper(name)
        if keeper.holder is None:
            raise NotRunning(f"the pool of database {name!r} is not open yet: enter the LeaseManager first (`async with`)")
        return keeper.holder

    async def rotate(self, name: str = "default") -> None:
        """Rotate the credential now; returns when the new generation serves. Raises VaultPgError if the attempt fails."""
        keeper = self._keeper(name)
        if asyncio.get_running_loop() is not self._loop:
            raise NotRunning(astray("this LeaseManager"))
        await keeper.rotate()

    def status(self) -> Status:
        """What is going on, as a frozen value with no secret in it. Raises NotRunning in a forked child."""
        self._check_parent()
        return snapshot(
            self.settings,
            self._session,
            self._keepers.values(),
            now=self._clock(),
            started_at=self._started_at or datetime.now(UTC),
            stopping=self._stopping,
        )

    def add_listener(self, listener: Listener) -> None:
        """Call `listener(event)` for every event from now on. One that raises harms nobody."""
        self._listeners.append(listener)

    def _keeper(self, name: str) -> Keeper:
        self._check_parent()
        try:
            return self._keepers[name]
        except KeyError:
            known = ", ".join(map(repr, self._keepers)) or "none: enter the LeaseManager first (`async with`)"
            raise NotRunning(f"this LeaseManager keeps no database {name!r}; it keeps {known}") from None

    def disown(self) -> None:
        """In a forked child: all of it is the parent's."""
        if not self._entered or self._parent is not None:
            return
        self._parent = os.getppid()
        if self._loop is not None and not self._loop.is_closed():
            fork.separate(self._loop)
        if self._termination is not None:
            self._termination.disarm()
        if self._endpoint is not None:
            self._endpoint.disown()

    def _check_parent(self) -> None:
        if self._parent is not None:
            raise NotRunning(fork.sentence("this LeaseManager", self._parent))

    def _emit(self, event: Event) -> None:
        for listener in list(self._listeners):
            try:
                listener(event)
            except Exception as error:  # noqa: BLE001 - a listener is foreign code, the log's processors too
                with suppress(Exception):
                    self._listeners[0](TaskDied(task=f"listener {listener!r}", error=type(error).__name__))

    # -- entering

    async def __aenter__(self) -> Self:
        if self._entered:
            raise VaultPgError("this LeaseManager is entered already; make another one")
        self._entered = True
        loop = asyncio.get_running_loop()
        self._started_at, self._stopping = datetime.now(UTC), False
        self._departure = self._leaving = None
        self._loop, self._parent = loop, None
        fork.watch(self)
        stray.add(self)
        if self._termination is not None:
            self._termination.arm()
        if any(database.from_vault for database in self.settings.databases.values()):
            self._session = VaultSession(self.settings.vault, emit=self._emit, clock=self._clock, draw=self._draw)
        try:
            deadline = loop.time() + self.settings.start_timeout
            await self._start(self._session, deadline)
        except BaseException:
            await self._leave_for_sure()
            raise
        if self._shared:
            registry.add(self)
        self._emit(ManagerStarted(databases=tuple(self._keepers)))
        return self

    async def _start(self, session: VaultSession | None, deadline: float) -> None:
        self._freed = asyncio.Event()  # another for each life: one belongs to the loop that first waits for it
        if session is not None:
            await self._try("logging in to Vault", session.open, deadline)
            self._supervise("token", session.run)
            self._supervise("outage", session.watch)
            self._supervise("old tokens", partial(self._forget_old, session))
        self._clocks = Clocks(asyncio.get_running_loop().time, self._clock, self._wall_clock)
        self._supervise("clock", self._watch_clock)
        emit, ended, woken = self._emit, self._forget_tokens, self._look_at_clocks  # made once, not once a database
        for name, settings in self.settings.databases.items():
            tenure = Tenure(
                name,
                settings,
                session,
                emit=emit,
                clock=self._clock,
                draw=self._draw,
                vault_timeout=self.settings.vault.timeout,
            )
            self._keepers[name] = Keeper(tenure, ended=ended, woken=woken)
        first: VaultPgError | None = None
        turn = asyncio.Semaphore(AT_ONCE)
        try:
            async with asyncio.TaskGroup() as group:
                for keeper in self._keepers.values():
                    # Before there is a task: thousands that wait for their turn are memory that is never given back.
                    await turn.acquire()
                    group.create_task(self._start_keeper(keeper, turn, deadline), name=f"vault-pg-start-{keeper.name}")
        except* VaultPgError as failures:
            # Raised below: what is raised in here would come out as a group of its own.
            first = next(error for error in failures.exceptions if isinstance(error, VaultPgError))
        if first is not None:
            raise first
        await self._open_endpoint()

    async def _start_keeper(self, keeper: Keeper, turn: asyncio.Semaphore, deadline: float) -> None:
        """`turn` is held, for the first attempt. Who waits to try again holds none, and is in nobody's way."""
        loop = asyncio.get_running_loop()
        held = True

        async def start() -> None:
            nonlocal held
            if not held:
                await turn.acquire()
            held = False
            try:
                await keeper.start(max(0.1, deadline - loop.time()))
            except VaultPgError as error:
                if len(self._keepers) > 1:
                    name_database(error, keeper.name)
                raise
            finally:
                turn.release()

        await self._try(f"opening the pool of {keeper.name!r}", start, deadline)
        self._supervise(keeper.name, keeper.run)  # at once: its lease may be due while others are still starting
        await self._forget_tokens()  # one is replaced where the answer to an issue was lost

    async def _try(self, what: str, attempt: Callable[[], Coroutine[Any, Any, None]], deadline: float) -> None:
        """Try until it works, until it fails for a reason that will not pass, or until the deadline. Raises the latest failure."""
        latest: list[VaultPgError] = []

        async def noted() -> None:
            try:
                await attempt()
            except VaultPgError as error:
                latest.append(error)
                raise

        try:
            async with asyncio.timeout_at(deadline):
                await self._try_again(noted, deadline)
        except TimeoutError:
            raise (
                latest[-1]
                if latest
                else VaultPgError(
                    f"{what} took longer than start_timeout ({self.settings.start_timeout:g} s): is a server hanging?"
                )
            ) from None

    async def _try_again(self, attempt: Callable[[], Coroutine[Any, Any, None]], deadline: float) -> None:
        loop = asyncio.get_running_loop()

        def wait(state: RetryCallState) -> float:
            return min(schedule.backoff(state.attempt_number, self._draw()), max(0.0, deadline - loop.time()))

        def delayed(state: RetryCallState) -> None:
            self._emit(
                StartDelayed(
                    error=str(failure(state)),
                    retry_in_seconds=round(state.upcoming_sleep, 3),
                    remaining_seconds=round(max(0.0, deadline - loop.time()), 3),
                )
            )

        async for trial in AsyncRetrying(
            retry=retry_if_exception(lambda error: transient(error) and not getattr(error, "hopeless", False)),
            before_sleep=delayed,
            stop=lambda _: loop.time() >= deadline,
            wait=wait,
            sleep=asyncio.sleep,
            reraise=True,
        ):
            with trial:
                await attempt()

    async def _open_endpoint(self) -> None:
        if not self.settings.status_socket:
            return
        try:
            endpoint = StatusEndpoint(self.status, self.settings.runtime_dir)
            await endpoint.start()
        except (VaultPgError, OSError) as error:
            self._emit(StatusUnavailable(error=str(error)))
        else:
            self._endpoint = endpoint

    # -- running

    def _supervise(self, name: str, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._tasks.append(asyncio.create_task(self._guard(name, run), name=f"vault-pg-{name}"))

    async def _guard(self, name: str, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """A background task that dies is a loud event, and is started again.

        One that somebody else cancels tells that the event loop ends, `asyncio.run` being over with this manager not left: it is left
        now, while the loop still runs.
        """
        try:
            for deaths in itertools.count(1):
                try:
                    await run()
                except Exception as error:  # noqa: BLE001 - whatever it was, leases must go on being kept
                    self._emit(TaskDied(task=name, error=f"{type(error).__name__}: {error}"))
                    await asyncio.sleep(schedule.backoff(deaths, 1.0))
        except asyncio.CancelledError:
            if not self._stopping and self._parent is None:
                await self._leave_for_sure()
            raise

    async def _watch_clock(self) -> None:
        while True:
            await asyncio.sleep(LOOK)
            self._look_at_clocks()

    def _look_at_clocks(self) -> None:
        """When they part nobody may go by what they believed before: neither by timers, which are late, nor by what is left."""
        if self._clocks is None or (leap := self._clocks.look()) is None:
            return
        self._emit(ClocksParted(slept_seconds=round(leap.slept, 3), stepped_seconds=round(leap.stepped, 3)))
        if self._session is not None:
            self._session.recheck()
        for number, keeper in enumerate(self._keepers.values()):
            keeper.recheck(after=number // AT_ONCE * BREATHER)

    async def _forget_tokens(self) -> None:
        """Old tokens are revoked once no lease of theirs is left. Nobody waits for that: Vault may hang."""
        self._freed.set()

    async def _forget_old(self, session: VaultSession) -> None:
        while True:
            await self._freed.wait()
            self._freed.clear()
            for failures in itertools.count(1):
                again = False
                for serial in session.old_serials:
                    # Looked at when its turn has come: while the one before was revoked an issue by this one may have been answered.
                    if not self._is_needed(serial):
                        again |= not await session.forget(serial, timeout=self.settings.vault.timeout)
                if not again:
                    break
                await asyncio.sleep(schedule.backoff(failures, self._draw(), left=math.inf))

    def _is_needed(self, serial: int) -> bool:
        return any(serial in keeper.token_serials for keeper in self._keepers.values())

    # -- leaving

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._leave_for_sure()

    async def _leave_for_sure(self) -> None:
        """Leave even if cancelled meanwhile: it is bounded by `shutdown_timeout`, and half a clean-up is a leak.

        Who comes second waits for the same leaving.
        """
        if self._parent is not None:
            return  # in a forked child: all there is to leave is the parent's
        if self._departure is None:
            self._departure = self._depart()
        departure, cancelled = self._departure, None
        with Interrupt(departure.hurry) as interrupt:
            while not departure.over:
                if self._leaving is None or self._leaving.done():
                    self._leaving = asyncio.create_task(departure.run(), name="vault-pg-leave")
                try:
                    await asyncio.shield(self._leaving)
                except asyncio.CancelledError as error:
                    cancelled = error
        self._ended()
        if self._termination is not None and self._termination.disarm():
            raise self._termination.exit() from None
        if cancelled is not None:
            raise cancelled
        if interrupt.came:
            raise KeyboardInterrupt

    def _ended(self) -> None:
        self._keepers, self._session, self._endpoint, self._entered = {}, None, None, False
        stray.remove(self)

    def end_stray(self) -> None:
        """At the end of the interpreter, with nobody left to leave it."""
        loop = self._loop
        if loop is None or self._parent is not None:
            return
        self._emit(LoopEnded(databases=tuple(self._keepers)))
        if loop.is_running():  # in a thread that the end of the interpreter does not wait for
            leaving = asyncio.run_coroutine_threadsafe(self._leave_for_sure(), loop)
            leaving.result(2 * self.settings.shutdown_timeout)
        elif not loop.is_closed():
            loop.run_until_complete(self._leave_for_sure())
        else:
            holders = [keeper.holder for keeper in self._keepers.values() if keeper.holder is not None]
            bury(loop, holders, prefix="vault-pg-")
            if self._endpoint is not None:
                self._endpoint.abandon()
            asyncio.run(self._revoke_all())
            self._ended()

    async def _revoke_all(self) -> None:
        await self._depart().revoke_all()

    def _depart(self) -> Departure:
        self._stopping = True
        registry.remove(self)
        tasks, self._tasks = self._tasks, []
        return Departure(
            [task for task in tasks if task is not asyncio.current_task()],
            list(self._keepers.values()),
            self._session,
            self._endpoint,
            timeout=self.settings.shutdown_timeout,
            emit=self._emit,
        )


def name_database(error: VaultPgError, name: str) -> None:
    """Let the error of one of several databases say whose it is."""
    text = str(error)
    prefix = f"database {name!r}: "
    if not text.startswith(prefix):
        error.args = (prefix + text, *error.args[1:])
