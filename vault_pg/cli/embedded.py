"""PostgreSQL and the dev Vault, started and set up as `vault-pg dev` and `vault-pg demo` use them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vault_pg.errors import SettingsError

if TYPE_CHECKING:
    import hvac

    from vault_pg.dev import DevVault, EmbeddedPostgres

MOUNT = "database"
ROLE = "app"
STATIC_ROLE = "app-static"
POLICY = "app"


SHORTEST_PERIOD = 5
"""Seconds between two passwords of a static role that Vault takes."""


@dataclass(frozen=True, slots=True)
class Servers:
    """Both servers, running, with the roles `app` and (static) `app-static` on the mount `database`.

    `root` is a client that may do everything.
    """

    postgres: EmbeddedPostgres
    vault: DevVault
    root: hvac.Client


@contextmanager
def servers(*, ttl: int, max_ttl: int, port: int = 0) -> Iterator[Servers]:
    """Both servers with a role of these TTLs (seconds), gone at the end. Raises SettingsError and DevError."""
    if max_ttl < ttl:
        raise SettingsError(f"--max-ttl {max_ttl} is less than --ttl {ttl}: raise --max-ttl or lower --ttl")
    isolate()
    import hvac  # noqa: PLC0415 - it reads its environment at import

    from vault_pg.dev import DevVault, EmbeddedPostgres, RoleSpec, StaticRoleSpec, provision  # noqa: PLC0415 - imports hvac's neighbours

    with EmbeddedPostgres() as postgres, DevVault(port=port) as vault:
        root = hvac.Client(url=vault.address, token=vault.root_token.get_secret_value())
        with postgres.admin() as conn:
            conn.execute(f'create role "{STATIC_ROLE}" login in role app_readwrite')
        provision(
            root,
            postgres,
            roles={ROLE: RoleSpec(default_ttl=ttl, max_ttl=max_ttl)},
            static_roles={STATIC_ROLE: StaticRoleSpec(STATIC_ROLE, rotation_period=max(ttl, SHORTEST_PERIOD))},
            mount=MOUNT,
            policy=POLICY,
        )
        yield Servers(postgres, vault, root)


def isolate() -> None:
    """Take out of this process's environment what is meant for other servers: it would bend every default of ours."""
    for name in os.environ:
        if foreign(name):
            del os.environ[name]
    # A proxy for the outside world must not be asked for 127.0.0.1.
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"


def foreign(name: str) -> bool:
    """Whether a variable is one of Vault's, libpq's or our own settings."""
    return name.startswith(("VAULT_", "PG")) and name != "VAULT_PG_RUNTIME_DIR"
