"""The database secrets engine, for PostgreSQL."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pydantic import SecretStr

from vault_pg.dev.vault import roles
from vault_pg.dev.vault.connections import ConnectFailed, Connections
from vault_pg.dev.vault.core import Core
from vault_pg.dev.vault.durations import grant, seconds
from vault_pg.dev.vault.leases import BackendError, Lease
from vault_pg.dev.vault.messages import DENIED, DONE, Answer, Granted, Refused, Request, keys, listed
from vault_pg.dev.vault.routes import Call, Routes
from vault_pg.dev.vault.static import StaticRoles

PLUGIN = "postgresql-database-plugin"
EXPIRY_BUFFER = 5
"""Seconds that a role's VALID UNTIL lies behind the end of its lease."""
UNSERVED = ("username_template", "password_policy", "tls_ca", "tls_certificate_key", "root_rotation_statements")


@dataclass(slots=True)
class Config:
    """A connection as configured at `config/NAME`."""

    url: str
    username: str
    password: SecretStr
    allowed_roles: list[str]
    connections: Connections = field(repr=False)

    def allow(self, role: str) -> None:
        if "*" not in self.allowed_roles and role not in self.allowed_roles:
            raise Refused.wrapped(500, f'"{role}" is not an allowed role')


@dataclass(slots=True)
class Role:
    """A dynamic role; the field names are those of Vault's answer."""

    db_name: str
    creation_statements: list[str]
    default_ttl: int
    max_ttl: int
    renew_statements: list[str]
    revocation_statements: list[str]
    rollback_statements: list[str]


def statements(request: Request, name: str) -> list[str]:
    """A field of SQL statements: a list, or one text (which may hold several; PostgreSQL splits them)."""
    value = request.body.get(name)
    return [value] if isinstance(value, str) and value else listed(value or [])


class Database:
    """One mount of the engine."""

    kind = "database"

    def __init__(self, core: Core, mount: str, *, default_ttl: int = 0, max_ttl: int = 0) -> None:
        self.core = core
        self.mount = mount
        self._default_ttl = default_ttl
        self._max_ttl = max_ttl
        self._configs: dict[str, Config] = {}
        self._roles: dict[str, Role] = {}
        self._deleted: dict[str, Role] = {}
        self.routes = Routes()
        add = self.routes.add
        add("PUT", "config/{name}", self.write_config, exists=lambda name: name in self._configs)
        add("GET", "config/{name}", self.read_config)
        add("DELETE", "config/{name}", self.delete_config)
        add("LIST", "config", lambda _call: keys(self._configs))
        add("PUT", "roles/{name}", self.write_role, exists=lambda name: name in self._roles)
        add("GET", "roles/{name}", self.read_role)
        add("DELETE", "roles/{name}", self.delete_role)
        add("LIST", "roles", lambda _call: keys(self._roles))
        add("GET", "creds/{name}", self.issue)
        self.static = StaticRoles(core, mount, self.config, self.routes)

    def close(self) -> None:
        self.static.close()
        for config in self._configs.values():
            self._let_go(config)

    def config(self, name: str, role: str | None = None) -> Config:
        config = self._configs.get(name)
        if config is None:
            raise Refused.wrapped(500, f'failed to find entry for connection with name: "{name}"')
        if role is not None:
            config.allow(role)
        return config

    def write_config(self, call: Call, name: str) -> Answer:
        request, before = call.request, self._configs.get(name)
        plugin = request.text("plugin_name", PLUGIN if before else "")
        if plugin != PLUGIN:
            raise Refused(400, f"error creating database object: this server has {PLUGIN} only")
        for option in UNSERVED:
            if request.body.get(option):
                raise Refused(400, f"error creating database object: this server does not serve {option}")
        url = request.text("connection_url", before.url if before else "")
        if not url:
            raise Refused(400, "error creating database object: connection_url cannot be empty")
        username = request.text("username", before.username if before else "")
        password = SecretStr(request.text("password", before.password.get_secret_value() if before else ""))
        self.core.remember(password.get_secret_value())
        allowed = request.names("allowed_roles") if "allowed_roles" in request.body or not before else before.allowed_roles
        config = Config(url, username, password, allowed, Connections(url, username, password, self.core.network))
        if request.flag("verify_connection", default=True):
            try:
                with config.connections.use():
                    pass
            except BackendError as error:
                raise Refused(400, f"error creating database object: error verifying connection: {error.text}") from None
        self._configs[name] = config
        self.core.connections.add(config.connections)
        if before:
            self._let_go(before)
        return DONE

    def _let_go(self, config: Config) -> None:
        self.core.connections.discard(config.connections)
        config.connections.close()

    def read_config(self, _call: Call, name: str) -> Answer:
        if name not in self._configs:
            raise Refused(404)
        config = self._configs[name]
        details = {"connection_url": config.url, "username": config.username}
        data: dict[str, Any] = {"allowed_roles": config.allowed_roles, "connection_details": details, "plugin_name": PLUGIN}
        return Answer(data={**data, "password_policy": "", "root_credentials_rotate_statements": []})

    def delete_config(self, _call: Call, name: str) -> Answer:
        config = self._configs.pop(name, None)
        if config:
            self._let_go(config)
        return DONE

    def write_role(self, call: Call, name: str) -> Answer:
        request, before = call.request, self._roles.get(name)
        db_name = request.text("db_name", before.db_name if before else "")
        if not db_name:
            raise Refused(400, "empty database name attribute")

        def sql(field_name: str) -> list[str]:
            given = field_name in request.body or before is None
            return statements(request, field_name) if given else list(getattr(before, field_name))

        def ttl(field_name: str) -> int:
            given = field_name in request.body or before is None
            return seconds(request.body.get(field_name), field_name) if given else int(getattr(before, field_name))

        self._roles[name] = Role(
            db_name,
            sql("creation_statements"),
            ttl("default_ttl"),
            ttl("max_ttl"),
            sql("renew_statements"),
            sql("revocation_statements"),
            sql("rollback_statements"),
        )
        return DONE

    def read_role(self, _call: Call, name: str) -> Answer:
        if name not in self._roles:
            raise Refused(404)
        role = self._roles[name]
        return Answer(data={field_name: getattr(role, field_name) for field_name in Role.__slots__})

    def delete_role(self, _call: Call, name: str) -> Answer:
        role = self._roles.pop(name, None)
        if role is not None:
            self._deleted[name] = role
        return DONE

    def issue(self, call: Call, name: str) -> Answer:
        """Create a PostgreSQL role and a lease on it."""
        role = self._roles.get(name)
        if role is None:
            raise Refused(400, f"unknown role: {name}")
        config = self.config(role.db_name, name)
        token, now = call.caller, self.core.now()
        default, most = role.default_ttl or self._default_ttl, role.max_ttl or self._max_ttl
        ttl, warnings = grant(now=now, start=now, wanted=0, default=default, most=most)
        username, password = roles.username(token.display_name, name, int(now)), roles.password()
        self.core.remember(password)
        self._create(config, role, username, password, now + ttl + EXPIRY_BUFFER)
        with self.core.lock:
            alive = self.core.tokens.alive(token.id, self.core.now()) is not None
            lease, granted = self.core.leases.add(call.request.path, token, backend=self, role=name, username=username, ttl=ttl)
        if not alive:
            # The token ended while PostgreSQL was asked, after the leases that die with it were counted.
            self.core.leases.revoke(lease.id, sync=False)
            raise Refused(403, DENIED)
        data = {"password": password, "username": username}
        return Answer(data=data, lease=Granted(lease.id, granted, renewable=True), warnings=warnings)

    def _create(self, config: Config, role: Role, username: str, password: str, end: float) -> None:
        try:
            with config.connections.use() as conn:
                roles.execute(conn, role.creation_statements, name=username, password=password, end=end)
        except ConnectFailed as error:
            raise Refused.wrapped(500, f"unable to start transaction: {error.text}") from None
        except BackendError as error:
            raise Refused.wrapped(500, f"failed to execute query: {error.text}") from None

    def limits(self, lease: Lease) -> tuple[float, float]:
        """The default and the longest life of what `lease`'s role issues, as the role stands now."""
        role = self._role_of(lease)
        return role.default_ttl or self._default_ttl, role.max_ttl or self._max_ttl

    def renew(self, lease: Lease, end: float) -> None:
        role = self._role_of(lease)
        with self._config_of(role).connections.use() as conn:
            roles.execute(conn, role.renew_statements or [roles.RENEW], name=lease.username, end=end + EXPIRY_BUFFER)

    def revoke(self, lease: Lease) -> None:
        # Leases of a role that was deleted can still be revoked.
        role = self._roles.get(lease.role) or self._deleted[lease.role]
        with self._config_of(role).connections.use() as conn:
            if role.revocation_statements:
                roles.execute(conn, role.revocation_statements, name=lease.username)
            else:
                roles.drop(conn, lease.username)

    def _role_of(self, lease: Lease) -> Role:
        role = self._roles.get(lease.role)
        if role is None:
            raise BackendError(f"could not find role with name: {lease.role}")
        return role

    def _config_of(self, role: Role) -> Config:
        if role.db_name not in self._configs:
            raise BackendError(f'failed to find entry for connection with name: "{role.db_name}"')
        return self._configs[role.db_name]
