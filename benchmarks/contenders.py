"""The ways to give a pool a new credential under load that are compared."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum
from time import monotonic
from typing import Any, TypeAlias

from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from vault_pg import HotSwapPool
from vault_pg.lease import Credential
from vault_pg.pool import LeasedPool, build
from vault_pg.settings import DatabaseSettings

Pool: TypeAlias = AsyncConnectionPool[AsyncConnection[Any]]

MIN_SIZE = 4
MAX_SIZE = 10
TIMEOUT = 10.0


class Name(StrEnum):
    """What a contender is called in options, tables and JSON."""

    RAW = "raw"
    DRAIN = "drain"
    SWAP = "swap"
    OURS = "ours"
    OURS_WIDE = "ours-wide"


@dataclass(frozen=True, slots=True)
class Rotation:
    """When a rotation began (with the new credential at hand), when the new one served, and when the old one was given up."""

    start: float
    swap: float
    drained: float


class Contender(ABC):
    """A pool that clients share, and how it gets a new credential."""

    pool: Pool
    """Asked anew at each checkout."""

    def __init__(self, conninfo: str) -> None:
        self.conninfo = conninfo

    @abstractmethod
    async def open(self, credential: Credential) -> None:
        """Return when `min_size` connections are ready."""

    @abstractmethod
    async def rotate(self, credential: Credential) -> Rotation:
        """Serve with the new credential; return when this way of doing it takes the old one to be out of use."""

    async def close(self) -> None:
        await self.pool.close()

    def _new_pool(self, credential: Credential) -> Pool:
        kwargs = {"user": credential.username, "password": credential.password.get_secret_value()}
        return AsyncConnectionPool(
            self.conninfo, kwargs=kwargs, min_size=MIN_SIZE, max_size=MAX_SIZE, timeout=TIMEOUT, open=False
        )


class Raw(Contender):
    """One pool and one role for good: rotations change nothing. The measure of the noise."""

    async def open(self, credential: Credential) -> None:
        self.pool = self._new_pool(credential)
        await self.pool.open(wait=True)

    async def rotate(self, credential: Credential) -> Rotation:
        del credential  # nobody logs in with it
        now = monotonic()
        return Rotation(now, now, now)


class Drain(Contender):
    """psycopg_pool's own: a callable for the connection arguments, and `drain()`."""

    async def open(self, credential: Credential) -> None:
        self._credential = credential
        self.pool = AsyncConnectionPool(
            self.conninfo, kwargs=self._kwargs, min_size=MIN_SIZE, max_size=MAX_SIZE, timeout=TIMEOUT, open=False
        )
        await self.pool.open(wait=True)

    async def _kwargs(self) -> dict[str, str]:
        return {"user": self._credential.username, "password": self._credential.password.get_secret_value()}

    async def rotate(self, credential: Credential) -> Rotation:
        start = monotonic()
        self._credential = credential
        await self.pool.drain()
        return Rotation(start, start, monotonic())


class Swap(Contender):
    """Open a new pool, swap the reference, close the old one."""

    async def open(self, credential: Credential) -> None:
        self.pool = self._new_pool(credential)
        await self.pool.open(wait=True)

    async def rotate(self, credential: Credential) -> Rotation:
        start = monotonic()
        pool = self._new_pool(credential)
        await pool.open(wait=True)
        swap = monotonic()
        old, self.pool = self.pool, pool
        await old.close()
        return Rotation(start, swap, monotonic())


class Ours(Contender):
    """HotSwapPool in front of the pools that a LeaseManager builds."""

    overlap: int | None = None

    async def open(self, credential: Credential) -> None:
        self.pool = self._holder = HotSwapPool(await self._build(credential), overlap=self.overlap)
        await self._holder.open(wait=True)

    async def _build(self, credential: Credential) -> LeasedPool[AsyncConnection[Any]]:
        settings = DatabaseSettings(
            role="bench", conninfo=self.conninfo, min_size=MIN_SIZE, max_size=MAX_SIZE, timeout=TIMEOUT, overlap=self.overlap
        )
        return await build(credential, settings, name=credential.username)

    async def rotate(self, credential: Credential) -> Rotation:
        start = monotonic()
        pool = await self._build(credential)
        called = monotonic()
        replacement = await self._holder.replace(pool)
        swap = called + replacement.seconds
        await replacement.drained
        return Rotation(start, swap, monotonic())


class OursWide(Ours):
    """The same with room for two whole pools."""

    overlap = MAX_SIZE


CONTENDERS: dict[Name, type[Contender]] = {
    Name.RAW: Raw,
    Name.DRAIN: Drain,
    Name.SWAP: Swap,
    Name.OURS: Ours,
    Name.OURS_WIDE: OursWide,
}
