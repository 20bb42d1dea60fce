"""The LDAP auth method, with a directory by hand: `dev/directory/NAME` (password, groups), which a real Vault doesn't have."""

from __future__ import annotations

import secrets
import uuid
from dataclasses import dataclass, field

from pydantic import SecretStr

from vault_pg.dev.vault.core import Core
from vault_pg.dev.vault.logins import TokenSettings
from vault_pg.dev.vault.messages import DONE, Answer, Body, Refused
from vault_pg.dev.vault.routes import Call, Routes


@dataclass(frozen=True, slots=True)
class Entry:
    """A user as the directory knows it."""

    password: SecretStr
    groups: tuple[str, ...]
    entity_id: str = field(default_factory=lambda: str(uuid.uuid4()))


class LdapAuth:
    """One mount of the method. The password is checked against the directory; policies are those of the user and its groups."""

    kind = "ldap"

    def __init__(self, core: Core, mount: str) -> None:
        self._core = core
        self._mount = mount
        self._directory: dict[str, Entry] = {}
        self._policies: dict[tuple[str, str], list[str]] = {}
        self._token = TokenSettings()
        self._config: Body = {}
        self.routes = Routes()
        add = self.routes.add
        add("PUT", "login/{name}", self.login, public=True)
        add("PUT", "config", self.configure)
        add("GET", "config", lambda _call: Answer(data=dict(self._config)))
        add("PUT", "dev/directory/{name}", self.write_entry)
        add("PUT", "users/{name}", lambda call, name: self._write_policies("users", name, call))
        add("PUT", "groups/{name}", lambda call, name: self._write_policies("groups", name, call))

    def close(self) -> None:
        """Tokens outlive their auth mount here; nothing else is held."""

    def configure(self, call: Call) -> Answer:
        self._token = TokenSettings.read(call.request, self._core, self._token)
        self._config |= {name: value for name, value in call.request.body.items() if name != "bindpass"}
        return DONE

    def write_entry(self, call: Call, name: str) -> Answer:
        password = SecretStr(call.request.text("password"))
        self._core.remember(password.get_secret_value())
        self._directory[name.lower()] = Entry(password, tuple(call.request.names("groups")))
        return DONE

    def _write_policies(self, kind: str, name: str, call: Call) -> Answer:
        policies = call.request.names("policies")
        self._core.check_policies(policies)
        self._policies[kind, name.lower()] = policies
        return DONE

    def login(self, call: Call, name: str) -> Answer:
        given, user = call.request.text("password"), name.lower()
        entry = self._directory.get(user)
        if not given or entry is None or not secrets.compare_digest(entry.password.get_secret_value().encode(), given.encode()):
            raise Refused(400, "ldap operation failed: failed to bind as user")
        names = [("users", user), *(("groups", group.lower()) for group in entry.groups)]
        policies = [policy for each in names for policy in self._policies.get(each, [])]
        if not policies:
            raise Refused(400, "ldap operation failed: user is not a member of any authorized group")
        token = TokenSettings(policies=tuple(policies), ttl=self._token.ttl, max_ttl=self._token.max_ttl)
        return token.login(
            self._core,
            f"auth/{self._mount}login/{user}",
            display_name=f"{self._mount.rstrip('/')}-{user}",
            meta={"username": user},
            entity_id=entry.entity_id,
        )
