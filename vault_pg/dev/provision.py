"""A Vault set up for the demo: database engine, roles, policy, AppRole. The same for the dev Vault and a real one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import SecretStr

from vault_pg.dev.postgres import EmbeddedPostgres

if TYPE_CHECKING:
    import hvac

CREATION = """CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' IN ROLE app_readwrite;"""
"""A role that may read and write the tables of `app_owner`, by membership alone: nothing is left to revoke when it is dropped."""

CONNECTION = "app"


@dataclass(frozen=True, slots=True)
class Target:
    """Where Vault finds PostgreSQL, and as whom. `host` may differ from where the provisioner sees it (compose)."""

    host: str
    port: int
    username: str
    password: SecretStr
    dbname: str = "app"
    sslmode: str = "disable"

    @classmethod
    def of(cls, postgres: EmbeddedPostgres) -> Target:
        return cls(postgres.host, postgres.port, postgres.admin_user, postgres.admin_password)

    @property
    def connection_url(self) -> str:
        """With Vault's placeholders where user name and password belong."""
        return f"postgresql://{{{{username}}}}:{{{{password}}}}@{self.host}:{self.port}/{self.dbname}?sslmode={self.sslmode}"


@dataclass(frozen=True, slots=True)
class RoleSpec:
    """A dynamic role; TTLs in seconds."""

    default_ttl: int = 3600
    max_ttl: int = 24 * 3600
    creation_statements: Sequence[str] = (CREATION,)
    revocation_statements: Sequence[str] = ()
    renew_statements: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class StaticRoleSpec:
    """A static role on a PostgreSQL role that exists; the period in seconds."""

    username: str
    rotation_period: int = 24 * 3600


@dataclass(frozen=True, slots=True)
class AppRoleLogin:
    """What a service logs in with."""

    role_id: str
    secret_id: SecretStr
    mount: str = "approle"


def service_policy(mount: str, *roles: str, static_roles: Iterable[str] = ()) -> str:
    """The policy that a service needs: its credentials, and to renew and revoke their leases."""
    read = [*(f"{mount}/creds/{role}" for role in roles), *(f"{mount}/static-creds/{role}" for role in static_roles)]
    paths = dict.fromkeys(read, "read") | {"sys/leases/renew": "update", "sys/leases/revoke": "update"}
    return "\n".join(f'path "{path}" {{ capabilities = ["{capability}"] }}' for path, capability in paths.items())


def provision(
    client: hvac.Client,
    postgres: EmbeddedPostgres | Target,
    *,
    roles: Mapping[str, RoleSpec],
    static_roles: Mapping[str, StaticRoleSpec] | None = None,
    mount: str = "database",
    policy: str | None = "app",
) -> None:
    """Mount the database engine at `mount`, connect it to `postgres`, create the roles, and a policy for a service that uses them.

    May be repeated: what is there is written anew. `client` needs a token that may do all that; hvac's errors pass through.
    """
    target = postgres if isinstance(postgres, Target) else Target.of(postgres)
    static = static_roles or {}
    if f"{mount}/" not in client.sys.list_mounted_secrets_engines()["data"]:
        client.sys.enable_secrets_engine("database", path=mount)
    database = client.secrets.database
    database.configure(
        CONNECTION,
        plugin_name="postgresql-database-plugin",
        allowed_roles=[*roles, *static],
        connection_url=target.connection_url,
        username=target.username,
        password=target.password.get_secret_value(),
        mount_point=mount,
    )
    for name, role in roles.items():
        database.create_role(
            name,
            CONNECTION,
            list(role.creation_statements),
            default_ttl=role.default_ttl,
            max_ttl=role.max_ttl,
            revocation_statements=list(role.revocation_statements),
            renew_statements=list(role.renew_statements),
            mount_point=mount,
        )
    for name, spec in static.items():
        database.create_static_role(name, CONNECTION, spec.username, [], rotation_period=spec.rotation_period, mount_point=mount)
    if policy is not None:
        client.sys.create_or_update_policy(policy, service_policy(mount, *roles, static_roles=static))


def provision_approle(
    client: hvac.Client,
    name: str,
    *,
    policies: Sequence[str],
    token_ttl: int = 3600,
    token_max_ttl: int = 0,
    token_type: str = "service",  # noqa: S107 - a kind of token
    mount: str = "approle",
) -> AppRoleLogin:
    """An AppRole with `policies`, and a new secret id for it. May be repeated."""
    if f"{mount}/" not in client.sys.list_auth_methods()["data"]:
        client.sys.enable_auth_method("approle", path=mount)
    approle = client.auth.approle
    approle.create_or_update_approle(
        name,
        token_policies=list(policies),
        token_ttl=token_ttl,
        token_max_ttl=token_max_ttl,
        token_type=token_type,
        mount_point=mount,
    )
    role_id = approle.read_role_id(name, mount_point=mount)["data"]["role_id"]
    secret_id = approle.generate_secret_id(name, mount_point=mount)["data"]["secret_id"]
    return AppRoleLogin(role_id, SecretStr(secret_id), mount)
