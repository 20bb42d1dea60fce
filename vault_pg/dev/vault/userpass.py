"""The userpass auth method."""

from __future__ import annotations

import secrets
import uuid
from dataclasses import dataclass, field

from pydantic import SecretStr

from vault_pg.dev.vault.core import Core
from vault_pg.dev.vault.logins import TokenSettings
from vault_pg.dev.vault.messages import DONE, Answer, Refused, keys
from vault_pg.dev.vault.routes import Call, Routes


@dataclass(slots=True)
class User:
    password: SecretStr
    token: TokenSettings
    entity_id: str = field(default_factory=lambda: str(uuid.uuid4()))


class UserpassAuth:
    """One mount of the method."""

    kind = "userpass"

    def __init__(self, core: Core, mount: str) -> None:
        self._core = core
        self._mount = mount
        self._users: dict[str, User] = {}
        self.routes = Routes()
        add = self.routes.add
        add("PUT", "login/{name}", self.login, public=True)
        add("PUT", "users/{name}", self.write, exists=lambda name: name in self._users)
        add("GET", "users/{name}", self.read)
        add("DELETE", "users/{name}", self.delete)
        add("LIST", "users", lambda _call: keys(self._users))

    def close(self) -> None:
        """Tokens outlive their auth mount here; nothing else is held."""

    def write(self, call: Call, name: str) -> Answer:
        request, before = call.request, self._users.get(name.lower())
        password = SecretStr(request.text("password"))
        if not password and before is None:
            raise Refused(400, "missing password")
        self._core.remember(password.get_secret_value())
        token = TokenSettings.read(request, self._core, before.token if before else None)
        self._users[name.lower()] = (
            User(password, token) if before is None else User(password or before.password, token, before.entity_id)
        )
        return DONE

    def read(self, _call: Call, name: str) -> Answer:
        user = self._users.get(name.lower())
        if user is None:
            raise Refused(404)
        return Answer(data=user.token.shown())

    def delete(self, _call: Call, name: str) -> Answer:
        self._users.pop(name.lower(), None)
        return DONE

    def login(self, call: Call, name: str) -> Answer:
        given = call.request.text("password")
        if not given:
            raise Refused(400, "missing password")
        user = self._users.get(name.lower())
        if user is None or not secrets.compare_digest(user.password.get_secret_value().encode(), given.encode()):
            raise Refused(400, "invalid username or password")
        display_name = f"{self._mount.rstrip('/')}-{name.lower()}"
        path = f"auth/{self._mount}login/{name.lower()}"
        return user.token.login(
            self._core, path, display_name=display_name, meta={"username": name.lower()}, entity_id=user.entity_id
        )
