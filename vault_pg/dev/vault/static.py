"""Static roles: PostgreSQL roles that exist already and whose password Vault changes now and then."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from psycopg import Connection
from pydantic import SecretStr

from vault_pg.dev.vault import roles
from vault_pg.dev.vault.core import Core
from vault_pg.dev.vault.durations import rfc3339, seconds
from vault_pg.dev.vault.leases import BackendError
from vault_pg.dev.vault.messages import DONE, Answer, Refused, keys, listed
from vault_pg.dev.vault.routes import Call, Routes

log = logging.getLogger(__name__)

SHORTEST_PERIOD = 5
RETRY = 10.0
"""Seconds until a rotation that failed is tried again."""


class Connector(Protocol):
    def use(self) -> AbstractContextManager[Connection]: ...


class Configured(Protocol):
    """What static roles need of a configured connection."""

    @property
    def connections(self) -> Connector: ...


@dataclass(slots=True)
class StaticRole:
    db_name: str
    username: str
    rotation_period: int
    rotation_statements: list[str]
    password: SecretStr = field(default_factory=lambda: SecretStr(""))
    rotated: float = 0.0


class StaticRoles:
    """The static roles of one database mount; adds its paths to `routes`."""

    def __init__(self, core: Core, mount: str, config: Callable[[str, str], Configured], routes: Routes) -> None:
        self._core = core
        self._mount = mount
        self._config = config
        self._roles: dict[str, StaticRole] = {}
        routes.add("PUT", "static-roles/{name}", self.write, exists=lambda name: name in self._roles)
        routes.add("GET", "static-roles/{name}", self.read)
        routes.add("DELETE", "static-roles/{name}", self.delete)
        routes.add("LIST", "static-roles", lambda _call: keys(self._roles))
        routes.add("GET", "static-creds/{name}", self.creds)
        routes.add("PUT", "rotate-role/{name}", self.rotate)

    def close(self) -> None:
        for name in list(self._roles):
            self._core.timers.cancel(self._timer(name))

    def _timer(self, name: str) -> str:
        return f"static {self._mount}{name}"

    def write(self, call: Call, name: str) -> Answer:
        request, before = call.request, self._roles.get(name)
        username = request.text("username", before.username if before else "")
        if not username:
            raise Refused(400, "username is a required field to create a static account")
        if before and before.username != username:
            raise Refused(400, "cannot update static account username")
        period = seconds(request.body.get("rotation_period"), "rotation_period") or (before.rotation_period if before else 0)
        if period < SHORTEST_PERIOD:
            raise Refused(400, f"rotation_period must be {SHORTEST_PERIOD} seconds or more")
        statements = request.body.get("rotation_statements")
        role = StaticRole(
            request.text("db_name", before.db_name if before else ""),
            username,
            period,
            [statements] if isinstance(statements, str) else listed(statements or []),
        )
        if before:
            role.password, role.rotated = before.password, before.rotated
        else:
            self._change_password(name, role)
        self._roles[name] = role
        self._arrange(name, role.rotated + period)
        return DONE

    def _change_password(self, name: str, role: StaticRole) -> None:
        password = SecretStr(roles.password())
        self._core.remember(password.get_secret_value())
        try:
            with self._config(role.db_name, name).connections.use() as conn:
                statements = role.rotation_statements or [roles.ROTATE]
                roles.execute(conn, statements, name=role.username, password=password.get_secret_value())
        except BackendError as error:
            raise Refused.wrapped(500, f"error setting credentials: {error.text}") from None
        role.password, role.rotated = password, self._core.now()

    def _arrange(self, name: str, when: float) -> None:
        self._core.timers.set(self._timer(name), when, lambda: self._rotate_in_turn(name))

    def _rotate_in_turn(self, name: str) -> None:
        role = self._roles.get(name)
        if role is None:
            return
        try:
            self._change_password(name, role)
        except Refused as refused:
            log.warning("static role %s was not rotated: %s", name, refused.errors[0])
            self._arrange(name, self._core.now() + RETRY)
        else:
            self._arrange(name, role.rotated + role.rotation_period)

    def _role(self, name: str, status: int, *errors: str) -> StaticRole:
        if name not in self._roles:
            raise Refused(status, *errors)
        return self._roles[name]

    def read(self, _call: Call, name: str) -> Answer:
        role = self._role(name, 404)
        data = {
            "db_name": role.db_name,
            "last_vault_rotation": rfc3339(role.rotated),
            "rotation_period": role.rotation_period,
            "rotation_statements": role.rotation_statements,
            "username": role.username,
        }
        return Answer(data=data)

    def delete(self, _call: Call, name: str) -> Answer:
        self._roles.pop(name, None)
        self._core.timers.cancel(self._timer(name))
        return DONE

    def creds(self, _call: Call, name: str) -> Answer:
        role = self._role(name, 400, f"unknown role: {name}")
        data = {
            "last_vault_rotation": rfc3339(role.rotated),
            "password": role.password.get_secret_value(),
            "rotation_period": role.rotation_period,
            "ttl": max(0, int(role.rotated + role.rotation_period - self._core.now())),
            "username": role.username,
        }
        return Answer(data=data)

    def rotate(self, _call: Call, name: str) -> Answer:
        role = self._role(name, 400, f'no static role found for role name "{name}"')
        self._change_password(name, role)
        self._arrange(name, role.rotated + role.rotation_period)
        return DONE
