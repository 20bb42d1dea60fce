"""The AppRole auth method."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

from vault_pg.dev.vault.core import Core
from vault_pg.dev.vault.durations import seconds
from vault_pg.dev.vault.logins import TokenSettings
from vault_pg.dev.vault.messages import DONE, Answer, Refused, keys
from vault_pg.dev.vault.routes import Call, Routes


@dataclass(slots=True)
class SecretId:
    accessor: str
    end: float | None
    uses: int
    """0 is without limit."""


@dataclass(slots=True)
class AppRole:
    role_id: str
    token: TokenSettings
    bind_secret_id: bool = True
    secret_id_ttl: int = 0
    secret_id_num_uses: int = 0
    entity_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    secret_ids: dict[str, SecretId] = field(default_factory=dict, repr=False)


class AppRoleAuth:
    """One mount of the method."""

    kind = "approle"

    def __init__(self, core: Core, mount: str) -> None:
        self._core = core
        self._mount = mount
        self._roles: dict[str, AppRole] = {}
        self.routes = Routes()
        add = self.routes.add
        add("PUT", "login", self.login, public=True)
        add("PUT", "role/{name}", self.write, exists=lambda name: name in self._roles)
        add("GET", "role/{name}", self.read)
        add("DELETE", "role/{name}", self.delete)
        add("LIST", "role", lambda _call: keys(self._roles))
        add("GET", "role/{name}/role-id", lambda _call, name: Answer(data={"role_id": self._role(name).role_id}))
        add("PUT", "role/{name}/role-id", self.write_role_id)
        add("PUT", "role/{name}/secret-id", self.new_secret_id)
        add(
            "LIST",
            "role/{name}/secret-id",
            lambda _call, name: keys(held.accessor for held in self._role(name).secret_ids.values()),
        )
        add("PUT", "role/{name}/secret-id/destroy", self.destroy_secret_id)

    def close(self) -> None:
        """Tokens outlive their auth mount here; nothing else is held."""

    def _role(self, name: str) -> AppRole:
        if name not in self._roles:
            raise Refused(404)
        return self._roles[name]

    def write(self, call: Call, name: str) -> Answer:
        request, before = call.request, self._roles.get(name)
        token = TokenSettings.read(request, self._core, before.token if before else None)
        role = before or AppRole(str(uuid.uuid4()), token)
        role.token = token
        role.bind_secret_id = request.flag("bind_secret_id", default=role.bind_secret_id)
        if "secret_id_ttl" in request.body:
            role.secret_id_ttl = seconds(request.body["secret_id_ttl"], "secret_id_ttl")
        if "secret_id_num_uses" in request.body:
            role.secret_id_num_uses = request.number("secret_id_num_uses")
        self._roles[name] = role
        return DONE

    def read(self, _call: Call, name: str) -> Answer:
        role = self._role(name)
        own = {"bind_secret_id": role.bind_secret_id, "local_secret_ids": False, "secret_id_bound_cidrs": None}
        return Answer(
            data={**own, **role.token.shown(), "secret_id_ttl": role.secret_id_ttl, "secret_id_num_uses": role.secret_id_num_uses}
        )

    def delete(self, _call: Call, name: str) -> Answer:
        self._roles.pop(name, None)
        return DONE

    def write_role_id(self, call: Call, name: str) -> Answer:
        role_id = call.request.text("role_id")
        if not role_id:
            raise Refused(400, "missing role_id")
        self._role(name).role_id = role_id
        return DONE

    def new_secret_id(self, call: Call, name: str) -> Answer:
        role = self._role(name)
        ttl = seconds(call.request.body.get("ttl"), "ttl") or role.secret_id_ttl
        secret, accessor = str(uuid.uuid4()), str(uuid.uuid4())
        self._core.remember(secret)
        with self._core.lock:
            end = self._core.now() + ttl if ttl else None
            role.secret_ids[secret] = SecretId(accessor, end, call.request.number("num_uses") or role.secret_id_num_uses)
        return Answer(data={"secret_id": secret, "secret_id_accessor": accessor, "secret_id_ttl": ttl})

    def destroy_secret_id(self, call: Call, name: str) -> Answer:
        self._role(name).secret_ids.pop(call.request.text("secret_id"), None)
        return DONE

    def login(self, call: Call) -> Answer:
        role_id, secret = call.request.text("role_id"), call.request.text("secret_id")
        if not role_id:
            raise Refused(400, "missing role_id")
        found = [(name, role) for name, role in list(self._roles.items()) if role.role_id == role_id]
        if not found:
            raise Refused(400, "invalid role ID")
        name, role = found[0]
        if role.bind_secret_id:
            self._use(role, secret)
        meta = {"role_name": name}
        return role.token.login(
            self._core, f"auth/{self._mount}login", display_name=self._mount.rstrip("/"), meta=meta, entity_id=role.entity_id
        )

    def _use(self, role: AppRole, secret: str) -> None:
        if not secret:
            raise Refused(400, "missing secret_id")
        with self._core.lock:
            held = role.secret_ids.get(secret)
            if held is None or (held.end is not None and held.end <= self._core.now()):
                raise Refused(400, "invalid secret id")
            if held.uses == 1:
                del role.secret_ids[secret]
            held.uses = max(0, held.uses - 1)
