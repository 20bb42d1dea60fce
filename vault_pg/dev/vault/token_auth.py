"""auth/token: tokens asking for, about and against tokens."""

from __future__ import annotations

from vault_pg.dev.vault.core import Core
from vault_pg.dev.vault.durations import seconds
from vault_pg.dev.vault.messages import DONE, Answer, Refused, keys
from vault_pg.dev.vault.routes import Call, Routes
from vault_pg.dev.vault.tokens import Token, policy_names


class TokenAuth:
    """The token auth method, always mounted at auth/token/."""

    kind = "token"

    def __init__(self, core: Core) -> None:
        self.core = core
        self.routes = Routes()
        add = self.routes.add
        add("PUT", "create", self.create)
        add("PUT", "create-orphan", self.create, sudo=True)
        add("GET", "lookup-self", lambda call: self._shown(call.caller))
        add("PUT", "lookup-self", lambda call: self._shown(call.caller))
        add("PUT", "lookup", lambda call: self._shown(self._named(call, 403, "bad token")))
        add("PUT", "lookup-accessor", lambda call: self._shown(self._by_accessor(call), hide_id=True))
        add("PUT", "renew-self", lambda call: self._renew(call, call.caller))
        add("PUT", "renew", lambda call: self._renew(call, self._named(call, 400, "token not found")))
        add("PUT", "renew-accessor", lambda call: self._renew(call, self._by_accessor(call)))
        add("PUT", "revoke-self", lambda call: self._revoke(call.caller))
        add("PUT", "revoke", lambda call: self._revoke(self._named(call, 400, "token to revoke not found")))
        add("PUT", "revoke-accessor", lambda call: self._revoke(self._by_accessor(call)))
        add("PUT", "revoke-orphan", self.revoke_orphan, sudo=True)
        add("LIST", "accessors", lambda _call: keys(core.tokens.accessors()), sudo=True)

    def close(self) -> None:
        """Nothing is held outside of the core."""

    def create(self, call: Call) -> Answer:
        request, parent = call.request, call.caller
        if parent.batch:
            raise Refused(400, "batch tokens cannot create more tokens")
        if parent.num_uses > 0:
            raise Refused(400, "restricted use token cannot generate child tokens")
        privileged = parent.root or "sudo" in self.core.capabilities(parent, call.request.path)
        orphan = request.path.endswith("create-orphan") or request.flag("no_parent")
        default = not request.flag("no_default_policy")
        policies = policy_names(request.names("policies") or parent.policies, default=default)
        if not privileged:
            if request.flag("no_parent") or request.body.get("id") or request.body.get("period"):
                raise Refused(400, "root or sudo privileges required to create an orphan or periodic token or to choose its id")
            if not set(policies) <= {*parent.policies, "default"}:
                raise Refused(400, "child policies must be subset of parent")
        kind = request.text("type", "service") or "service"
        if kind not in ("service", "batch"):
            raise Refused(400, "invalid 'type' value")
        chosen = request.text("display_name")
        meta = request.body.get("meta")
        token = Token(
            id=request.text("id"),
            policies=policies,
            created=self.core.now(),
            kind=kind,
            display_name=f"token-{chosen}" if chosen else "token",
            explicit_max_ttl=seconds(request.body.get("explicit_max_ttl"), "explicit_max_ttl"),
            period=seconds(request.body.get("period"), "period"),
            renewable=request.flag("renewable", default=True),
            num_uses=request.number("num_uses"),
            parent="" if orphan else parent.id,
            orphan=orphan,
            meta={str(key): str(value) for key, value in meta.items()} if isinstance(meta, dict) else None,
        )
        if token.batch and (token.period or token.explicit_max_ttl or token.num_uses):
            raise Refused(400, "batch tokens cannot have a period, an explicit max TTL or a number of uses")
        self.core.add_token(token, wanted=seconds(request.body.get("ttl"), "ttl"))
        return Answer(auth=token.auth())

    def _named(self, call: Call, status: int, error: str) -> Token:
        secret = call.request.text("token")
        if not secret:
            raise Refused(400, "missing token ID")
        with self.core.lock:
            token = self.core.tokens.alive(secret, self.core.now())
        if token is None:
            raise Refused(status, error)
        return token

    def _by_accessor(self, call: Call) -> Token:
        with self.core.lock:
            return self.core.tokens.by_accessor(call.request.text("accessor"), self.core.now())

    def _shown(self, token: Token, *, hide_id: bool = False) -> Answer:
        data = token.shown(self.core.now())
        return Answer(data={**data, "id": ""} if hide_id else data)

    def _renew(self, call: Call, token: Token) -> Answer:
        granted, warnings = self.core.renew_token(token, seconds(call.request.body.get("increment"), "increment"))
        return Answer(auth={**token.auth(), "lease_duration": granted}, warnings=warnings)

    def _revoke(self, token: Token) -> Answer:
        if token.batch:
            raise Refused(400, "batch tokens cannot be revoked")
        self.core.end_token(token.id)
        return DONE

    def revoke_orphan(self, call: Call) -> Answer:
        token = self._named(call, 400, "token to revoke not found")
        if token.batch:
            raise Refused(400, "batch tokens cannot be revoked")
        self.core.end_token(token.id, children=False)
        return DONE
