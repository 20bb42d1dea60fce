"""What the login methods share: the token settings of a role or user, and the token that a login yields."""

from __future__ import annotations

from dataclasses import dataclass

from vault_pg.dev.vault.core import Core
from vault_pg.dev.vault.durations import seconds
from vault_pg.dev.vault.messages import Answer, Body, Refused, Request
from vault_pg.dev.vault.tokens import Token, policy_names

KINDS = {
    "": "service",
    "default": "service",
    "default-service": "service",
    "service": "service",
    "batch": "batch",
    "default-batch": "batch",
}


@dataclass(frozen=True, slots=True)
class TokenSettings:
    """The token_* fields of a role or user."""

    policies: tuple[str, ...] = ()
    ttl: int = 0
    max_ttl: int = 0
    explicit_max_ttl: int = 0
    period: int = 0
    num_uses: int = 0
    kind: str = "default"
    no_default_policy: bool = False

    @classmethod
    def read(cls, request: Request, core: Core, before: TokenSettings | None) -> TokenSettings:
        """As written by `request` over what was set before."""
        known, body = before or cls(), request.body

        def ttl(name: str, current: int) -> int:
            return seconds(body[name], name) if name in body else current

        policies = (
            tuple(request.names("token_policies", "policies")) if {"token_policies", "policies"} & set(body) else known.policies
        )
        core.check_policies(policies)
        kind = request.text("token_type", known.kind)
        if kind not in KINDS:
            raise Refused(400, f"invalid 'token_type' value {kind!r}")
        return cls(
            policies=policies,
            ttl=ttl("token_ttl", known.ttl),
            max_ttl=ttl("token_max_ttl", known.max_ttl),
            explicit_max_ttl=ttl("token_explicit_max_ttl", known.explicit_max_ttl),
            period=ttl("token_period", known.period),
            num_uses=request.number("token_num_uses") if "token_num_uses" in body else known.num_uses,
            kind=kind,
            no_default_policy=request.flag("token_no_default_policy", default=known.no_default_policy),
        )

    def shown(self) -> Body:
        return {
            "token_bound_cidrs": [],
            "token_explicit_max_ttl": self.explicit_max_ttl,
            "token_max_ttl": self.max_ttl,
            "token_no_default_policy": self.no_default_policy,
            "token_num_uses": self.num_uses,
            "token_period": self.period,
            "token_policies": list(self.policies),
            "token_ttl": self.ttl,
            "token_type": self.kind,
        }

    def login(self, core: Core, path: str, *, display_name: str, meta: dict[str, str], entity_id: str) -> Answer:
        """A new token, handed out."""
        token = Token(
            id="",
            policies=policy_names(self.policies, default=not self.no_default_policy),
            created=core.now(),
            kind=KINDS[self.kind],
            display_name=display_name,
            path=path,
            explicit_max_ttl=self.explicit_max_ttl,
            max_ttl=self.max_ttl,
            period=self.period,
            num_uses=self.num_uses,
            orphan=True,
            meta=meta,
            entity_id=entity_id,
        )
        core.add_token(token, wanted=self.ttl)
        return Answer(auth=token.auth())
