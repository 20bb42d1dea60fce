"""Fixtures for all tests: one PostgreSQL and one Vault a session, one database mount a test."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from typing import Any

import hvac
import hypothesis
import pytest

from tests import leaks
from tests.servers import DatabaseView, Mount, VaultServer, any_vault, client_of, dev_vault, mounted
from vault_pg.dev import DevVault, EmbeddedPostgres, RoleSpec

# The same examples in every run: what passes once passes always, and new ones are sought by hand with --hypothesis-seed=random.
hypothesis.settings.register_profile("same", derandomize=True, deadline=None)
hypothesis.settings.load_profile("same")


def pytest_configure(config: pytest.Config) -> None:
    # Everything at DEBUG is captured, so that a leak at any level is seen.
    config.option.log_level = config.option.log_level or "DEBUG"


def pytest_sessionstart() -> None:
    # A shell starts what runs in its background deaf to Ctrl-C, and so would be the programs that the tests send it to.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Without this, pytest-asyncio's look for "the current loop" makes one that nobody closes.
    asyncio.set_event_loop(None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    leaks.check(report)
    return report


@pytest.fixture(autouse=True)
def _no_vault_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whoever runs the tests may have a Vault and a PostgreSQL of their own."""
    ours = ("ADDR", "AGENT_ADDR", "TOKEN", "NAMESPACE", "CACERT", "CACERT_BYTES", "CAPATH", "CLIENT_CERT", "CLIENT_KEY")
    for name in (*ours, "SKIP_VERIFY", "TLS_SERVER_NAME"):
        monkeypatch.delenv(f"VAULT_{name}", raising=False)
    for name in ("HOST", "HOSTADDR", "PORT", "DATABASE", "USER", "PASSWORD", "PASSFILE", "SERVICE", "SSLMODE"):
        monkeypatch.delenv(f"PG{name}", raising=False)


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL that asks everyone for a password. Whoever stops it starts it again."""
    with EmbeddedPostgres() as server, leaks.watched(lambda: [server.admin_password.get_secret_value()]):
        yield server


@pytest.fixture(scope="session")
def vault() -> Iterator[VaultServer]:
    """The dev Vault, or a real `vault server -dev` where VAULT_PG_TEST_VAULT names the binary."""
    with any_vault() as server:
        yield server


@pytest.fixture(name="dev_vault")
def dev_vault_fixture(vault: VaultServer) -> Iterator[DevVault]:
    """The same server with its faults, which end with the test. Skips where the server is a real one."""
    if not isinstance(vault, DevVault):
        pytest.skip("needs failures on demand, which a real Vault does not have")
    vault.log.clear()
    try:
        yield vault
    finally:
        vault.faults.clear()
        vault.start()


@pytest.fixture
def new_vault() -> Iterator[Callable[..., DevVault]]:
    """Makes dev Vaults of a test's own; the arguments are DevVault's."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(dev_vault(**options))


@pytest.fixture
def root(vault: VaultServer) -> Iterator[hvac.Client]:
    """A client with the root token."""
    client = client_of(vault)
    yield client
    client.adapter.close()


@pytest.fixture
def database(postgres: EmbeddedPostgres) -> DatabaseView:
    return DatabaseView(postgres)


@pytest.fixture
def make_mount(vault: VaultServer, postgres: EmbeddedPostgres) -> Iterator[Callable[..., Mount]]:
    """Makes database mounts with a role of its own options each: `make_mount(default_ttl=4, max_ttl=12)`, or `make_mount(roles={...})`."""

    def make(roles: dict[str, RoleSpec] | None = None, **options: Any) -> Mount:
        return stack.enter_context(mounted(vault, postgres, roles or {"app": RoleSpec(**options)}))

    with ExitStack() as stack:
        yield make
        if isinstance(vault, DevVault):
            # Faults have to end before the mounts can be taken away.
            vault.faults.clear()
            vault.start()


@pytest.fixture
def mount(make_mount: Callable[..., Mount]) -> Mount:
    """A mount with a role `app` of 1 h / 24 h."""
    return make_mount()
