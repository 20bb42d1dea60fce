"""The auth methods that are shown a signed JWT: jwt, kubernetes, azure and gcp.

The signature, the times, audience and issuer are really checked, with the public keys of the mount's configuration. A real Vault gets
those of azure and gcp from the cloud, and asks the Kubernetes API about the service account; here they are given by hand: in
`jwt_validation_pubkeys` (jwt) or `pem_keys` (kubernetes), and for the clouds at `dev/keys`, which a real Vault doesn't have.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vault_pg.dev.vault.core import Core
from vault_pg.dev.vault.logins import TokenSettings
from vault_pg.dev.vault.messages import DENIED, DONE, Answer, Body, Refused, Request, keys, listed
from vault_pg.dev.vault.routes import Call, Routes

try:
    import jwt
except ImportError:  # pragma: no cover - the extra `dev` brings it
    jwt = None  # type: ignore[assignment]  # told when such a method is enabled

ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "ES512", "EdDSA"]


@dataclass(slots=True)
class Role:
    token: TokenSettings
    bound: dict[str, Any]
    """The fields of the role that say whom it is for, as written."""
    entity_id: str = field(default_factory=lambda: str(uuid.uuid4()))

    def names(self, name: str) -> list[str]:
        return listed(self.bound.get(name) or [])


class SignedAuth:
    """One mount of such a method."""

    kind = ""
    key_field = ""
    """The field of the configuration that holds the public keys."""

    def __init__(self, core: Core, mount: str) -> None:
        if jwt is None:
            raise Refused(400, f"the auth method {self.kind} needs PyJWT here: install vault_pg[dev]")
        self._core = core
        self._mount = mount
        self._roles: dict[str, Role] = {}
        self.config: Body = {}
        self.keys: list[str] = []
        self.routes = Routes()
        add = self.routes.add
        add("PUT", "login", self.login, public=True)
        add("PUT", "config", self.configure)
        add("GET", "config", lambda _call: Answer(data=dict(self.config)))
        add("PUT", "dev/keys", self.write_keys)
        add("PUT", "role/{name}", self.write, exists=lambda name: name in self._roles)
        add("GET", "role/{name}", self.read)
        add("DELETE", "role/{name}", self.delete)
        add("LIST", "role", lambda _call: keys(self._roles))

    def close(self) -> None:
        """Tokens outlive their auth mount here; nothing else is held."""

    def configure(self, call: Call) -> Answer:
        self.config |= call.request.body
        if self.key_field in call.request.body:
            self.keys = listed(call.request.body[self.key_field])
        return DONE

    def write_keys(self, call: Call) -> Answer:
        self.keys = call.request.names("keys")
        return DONE

    def write(self, call: Call, name: str) -> Answer:
        request, before = call.request, self._roles.get(name)
        old = {"token_ttl": "ttl", "token_max_ttl": "max_ttl", "token_period": "period", "token_num_uses": "num_uses"}
        body = {**{new: request.body[alias] for new, alias in old.items() if alias in request.body}, **request.body}
        token = TokenSettings.read(Request(request.method, request.path, body=body), self._core, before.token if before else None)
        bound = {**(before.bound if before else {}), **request.body}
        self._roles[name] = Role(token, bound) if before is None else Role(token, bound, before.entity_id)
        return DONE

    def read(self, _call: Call, name: str) -> Answer:
        role = self._roles.get(name)
        if role is None:
            raise Refused(404)
        return Answer(data={**role.bound, **role.token.shown()})

    def delete(self, _call: Call, name: str) -> Answer:
        self._roles.pop(name, None)
        return DONE

    def login(self, call: Call) -> Answer:
        request = call.request
        name, shown = request.text("role") or str(self.config.get("default_role", "")), request.text("jwt")
        self._core.remember(shown)
        if not shown:
            raise Refused(400, "missing jwt")
        role = self._roles.get(name)
        if role is None:
            raise Refused(400, f'role "{name}" could not be found' if name else "missing role")
        claims = self._claims(shown, self.audiences(name, role))
        who = self.subject(role, claims, request)
        return role.token.login(
            self._core,
            f"auth/{self._mount}login",
            display_name=f"{self._mount.rstrip('/')}-{who}",
            meta={"role": name},
            entity_id=role.entity_id,
        )

    def _claims(self, shown: str, audiences: list[str]) -> Mapping[str, Any]:
        """What the JWT says, once one of the keys vouches for it."""
        issuer = self.config.get("bound_issuer") or self.config.get("issuer") or None
        why = "no known key successfully validated the token signature"
        for key in self.keys:
            try:
                claims: Mapping[str, Any] = jwt.decode(
                    shown,
                    key,
                    algorithms=ALGORITHMS,
                    audience=audiences or None,
                    issuer=issuer,
                    options={"require": ["exp"], "verify_aud": bool(audiences)},
                )
            except jwt.InvalidSignatureError:
                continue
            except jwt.PyJWTError as error:
                why = str(error)
            else:
                return claims
        raise self.bad(why)

    def bad(self, why: str) -> Refused:
        return Refused(400, f"error validating token: {why}")

    def audiences(self, name: str, role: Role) -> list[str]:
        """Those of which the JWT has to name one; none where that is not asked for."""
        raise NotImplementedError

    def subject(self, role: Role, claims: Mapping[str, Any], request: Request) -> str:
        """Who it is, if the role is for it; else raises Refused."""
        raise NotImplementedError


class JwtAuth(SignedAuth):
    """Any issuer. A role is bound by `bound_audiences`, `bound_subject` and `bound_claims`, and names its `user_claim`."""

    kind = "jwt"
    key_field = "jwt_validation_pubkeys"

    def audiences(self, name: str, role: Role) -> list[str]:  # noqa: ARG002
        return role.names("bound_audiences")

    def subject(self, role: Role, claims: Mapping[str, Any], request: Request) -> str:  # noqa: ARG002
        wanted = {**(role.bound.get("bound_claims") or {})}
        if role.bound.get("bound_subject"):
            wanted["sub"] = role.bound["bound_subject"]
        for name, value in wanted.items():
            if str(claims.get(name)) not in listed(value):
                raise Refused(400, f'error validating claims: claim "{name}" does not match any associated bound claim values')
        who = claims.get(str(role.bound.get("user_claim", "sub")))
        if not who:
            raise Refused(400, "claim not found in token")
        return str(who)


class KubernetesAuth(SignedAuth):
    """Service accounts, bound by name and namespace. No API server is asked whether the account lives."""

    kind = "kubernetes"
    key_field = "pem_keys"

    def bad(self, why: str) -> Refused:  # noqa: ARG002 - a real one says no more
        return Refused(403, DENIED)

    def audiences(self, name: str, role: Role) -> list[str]:  # noqa: ARG002
        return role.names("audience")

    def subject(self, role: Role, claims: Mapping[str, Any], request: Request) -> str:  # noqa: ARG002
        account = claims.get("kubernetes.io") or {}
        namespace, name = account.get("namespace", ""), (account.get("serviceaccount") or {}).get("name", "")
        for bound, value in (("namespaces", namespace), ("names", name)):
            if not {value, "*"} & set(role.names(f"bound_service_account_{bound}")) or not value:
                raise Refused(403, "namespace not authorized" if bound == "namespaces" else "service account name not authorized")
        return f"{namespace}-{name}"


class AzureAuth(SignedAuth):
    """Managed identities, bound by `bound_service_principal_ids` (the JWT's `oid`) and by what the login says of the machine."""

    kind = "azure"

    def audiences(self, name: str, role: Role) -> list[str]:  # noqa: ARG002
        return listed(self.config.get("resource") or [])

    def subject(self, role: Role, claims: Mapping[str, Any], request: Request) -> str:
        who = str(claims.get("oid", ""))
        for bound, value in (
            ("bound_service_principal_ids", who),
            ("bound_subscription_ids", request.text("subscription_id")),
            ("bound_resource_groups", request.text("resource_group_name")),
        ):
            if role.names(bound) and value not in role.names(bound):
                raise Refused(400, f"{bound.removeprefix('bound_').removesuffix('s')} not authorized: {value}")
        return who


class GcpAuth(SignedAuth):
    """Service accounts, bound by `bound_service_accounts`; the JWT's audience is `vault/ROLE`."""

    kind = "gcp"

    def audiences(self, name: str, role: Role) -> list[str]:  # noqa: ARG002
        return [f"vault/{name}", f"http://vault/{name}"]

    def subject(self, role: Role, claims: Mapping[str, Any], request: Request) -> str:  # noqa: ARG002
        who = str(claims.get("email") or claims.get("sub") or "")
        if not {who, "*"} & set(role.names("bound_service_accounts")):
            raise Refused(400, "service account not authorized")
        return who
