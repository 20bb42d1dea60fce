"""Fixtures for pools on the real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from tests.pools import MakePool, Role, pool_of, role_in
from vault_pg.dev import EmbeddedPostgres


@pytest.fixture
def conninfo(postgres: EmbeddedPostgres) -> str:
    """The superuser's."""
    return postgres.admin_conninfo().get_secret_value()


@pytest.fixture
def make_pool(conninfo: str) -> MakePool:
    """Makes pools of 1 to 2 connections, not open yet; the arguments are AsyncConnectionPool's."""
    return partial(pool_of, conninfo)


@pytest.fixture
def role(postgres: EmbeddedPostgres) -> Iterator[Role]:
    """A role that the test may drop."""
    with role_in(postgres) as role:
        yield role


@pytest.fixture
def table(postgres: EmbeddedPostgres) -> Iterator[None]:
    """A table `ledger (n int)` that roles may use until they are dropped."""
    with postgres.admin() as conn:
        conn.execute("create table ledger (n int); grant all on ledger to app_readwrite")
    yield
    with postgres.admin() as conn:  # another one, for the test may have restarted the server
        conn.execute("drop table ledger")
