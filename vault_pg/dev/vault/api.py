"""From a request to its answer: seal, token, policy, mount, wrapping, in the order in which Vault checks them."""

from __future__ import annotations

import logging
from types import MappingProxyType

from pydantic import SecretStr

from vault_pg.dev.vault.approle import AppRoleAuth
from vault_pg.dev.vault.aws import AwsAuth
from vault_pg.dev.vault.core import Core
from vault_pg.dev.vault.database import Database
from vault_pg.dev.vault.ldap import LdapAuth
from vault_pg.dev.vault.messages import DENIED, Answer, Refused, Request
from vault_pg.dev.vault.mounts import Engine, Mounts
from vault_pg.dev.vault.policies import ROOT
from vault_pg.dev.vault.routes import Call, Route
from vault_pg.dev.vault.signed import AzureAuth, GcpAuth, JwtAuth, KubernetesAuth
from vault_pg.dev.vault.system import System
from vault_pg.dev.vault.token_auth import TokenAuth
from vault_pg.dev.vault.tokens import Token
from vault_pg.dev.vault.userpass import UserpassAuth
from vault_pg.dev.vault.wrapping import Wrappings

log = logging.getLogger(__name__)

WHILE_SEALED = frozenset({"sys/health", "sys/seal-status", "sys/init", "sys/unseal", "sys/leader"})
CAPABILITIES = MappingProxyType({"GET": "read", "LIST": "list", "DELETE": "delete", "PUT": "update"})
LAST_USE = "Secret cannot be returned; token had one use left, so leased credentials were immediately revoked."


class Api:
    """Answers requests; thread-safe."""

    def __init__(self, root_token: SecretStr, *, revoke_retry_base: float) -> None:
        self.core = core = Core(root_token, revoke_retry_base=revoke_retry_base)
        self.wrappings = Wrappings(core)
        system = System(core, self.wrappings)
        self.secrets = Mounts(
            {"database": lambda path, default, most: Database(core, path, default_ttl=default, max_ttl=most)}, {"sys/": system}
        )
        self.auths = Mounts(
            {
                "approle": lambda path, _default, _most: AppRoleAuth(core, path),
                "aws": lambda path, _default, _most: AwsAuth(core, path),
                "ldap": lambda path, _default, _most: LdapAuth(core, path),
                "jwt": lambda path, _default, _most: JwtAuth(core, path),
                "kubernetes": lambda path, _default, _most: KubernetesAuth(core, path),
                "azure": lambda path, _default, _most: AzureAuth(core, path),
                "gcp": lambda path, _default, _most: GcpAuth(core, path),
                "userpass": lambda path, _default, _most: UserpassAuth(core, path),
            },
            {"token/": TokenAuth(core)},
        )
        system.serve(self.secrets, self.auths)

    def answer(self, request: Request) -> Answer:
        """Vault's answer, refusals included; never raises."""
        try:
            return self._answer(request)
        except Refused as refused:
            return Answer(refused.status, raw={"errors": list(refused.errors)})
        except Exception:
            log.exception("the dev Vault failed at %s %s", request.method, request.path)
            return Answer(500, raw={"errors": ["internal error"]})

    def _answer(self, request: Request) -> Answer:
        if self.core.sealed and request.path not in WHILE_SEALED:
            raise Refused(503, "error performing token check: Vault is sealed")
        if request.bad_body:
            raise Refused(400, request.bad_body)
        mounted = self._mount(request.path)
        mount, engine = mounted or ("", None)
        found = engine.routes.find(request.method, request.path.removeprefix(mount)) if engine else None
        if found and found[0].public:
            return self._wrapped(request, found[0].handler(Call(request, None, mount), **found[1]))
        return self._with_token(request, mount, engine, found)

    def _with_token(
        self, request: Request, mount: str, engine: Engine | None, found: tuple[Route, dict[str, str]] | None
    ) -> Answer:
        token = self.core.token(request.token)
        # A request that is refused counts as a use, too.
        last = self.core.use(token)
        try:
            self._authorise(request, token, *(found or (None, {})))
            if found is None:
                raise self._unserved(request, mount, engine)
            answer = found[0].handler(Call(request, token, mount), **found[1])
        finally:
            if last:
                self.core.end_token(token.id)
        if last and answer.lease and answer.lease.id:
            raise Refused(400, LAST_USE)
        return self._wrapped(request, answer)

    def _mount(self, path: str) -> tuple[str, Engine] | None:
        # sys/auth/... is a path of sys/.
        if not path.startswith("auth/"):
            return self.secrets.find(path)
        found = self.auths.find(path.removeprefix("auth/"))
        return (f"auth/{found[0]}", found[1]) if found else None

    def _authorise(self, request: Request, token: Token, route: Route | None, parameters: dict[str, str]) -> None:
        allowed = self.core.capabilities(token, request.path)
        if ROOT in allowed:
            return
        needed = CAPABILITIES[request.method]
        if route and route.exists and needed == "update" and not route.exists(**parameters):
            needed = "create"
        if needed == "list":
            # A folder is the same with and without its slash.
            allowed |= self.core.capabilities(token, request.path.rstrip("/") + "/")
        if needed not in allowed or (route and route.sudo and "sudo" not in allowed):
            raise Refused.wrapped(403, DENIED)

    def _unserved(self, request: Request, mount: str, engine: Engine | None) -> Refused:
        if engine is None:
            return Refused(404, f"no handler for route '{request.path}'")
        if engine.routes.serves(request.path.removeprefix(mount)):
            return Refused.wrapped(405, "unsupported operation")
        return Refused.wrapped(404, "unsupported path")

    def _wrapped(self, request: Request, answer: Answer) -> Answer:
        worth = answer.data is not None or answer.auth is not None
        return self.wrappings.wrap(answer, request.path, request.wrap_ttl) if request.wrap_ttl and worth else answer

    def kill_token(self, name: str) -> None:
        """End the token with this id or accessor, its children and their leases."""
        core = self.core
        with core.lock:
            token = core.tokens.alive(name, core.now()) or core.tokens.by_accessor(name, core.now())
            core.end_token(token.id)
