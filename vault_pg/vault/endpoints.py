"""The calls of Vault's API that we make, each on an hvac client, in whatever thread it is called from."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar
from urllib.parse import quote

import hvac
from pydantic import BaseModel, Field, SecretStr, ValidationError

from vault_pg.errors import LeaseLost, NotRenewable, PermissionDenied, TokenInvalid, VaultUnavailable
from vault_pg.vault.answers import Question, nonsense, origin

Client: TypeAlias = hvac.Client
T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)


class Extension(BaseModel):
    """What a renewal granted: `ttl` seconds from now."""

    ttl: float = Field(alias="lease_duration", ge=0, allow_inf_nan=False)
    renewable: bool


class _Login(BaseModel):
    username: str = Field(min_length=1)
    password: SecretStr = Field(min_length=1)


class StaticLogin(_Login):
    """The credential of a static role; Vault changes the password `ttl` seconds from now, or less than a second later."""

    ttl: float = Field(allow_inf_nan=False)


class Issued(Extension):
    """A new lease with its credential."""

    lease_id: str = Field(min_length=1)
    data: _Login


class Grant(BaseModel):
    """A token as a login or a look-up shows it."""

    secret: SecretStr
    ttl: float | None = Field(ge=0, allow_inf_nan=False)
    """Seconds from now; None never ends."""
    renewable: bool
    increment: float | None = None
    """Seconds to ask renewals for: what the token was first granted."""
    revocable: bool = False
    """We logged in for it, and it is of a kind that can be revoked (batch tokens can't)."""
    accessor: str = ""
    display_name: str = ""
    uses: int | None = None
    """Requests that the token is still good for; None is without limit."""
    identity: str = ""
    """Tells one token from another where its secret is not seen."""
    seen: bool = False
    """It looked itself up, and so has the right to."""


class _Auth(BaseModel):
    client_token: SecretStr = Field(min_length=1)
    lease_duration: float = Field(ge=0, allow_inf_nan=False)
    renewable: bool
    kind: str = Field(default="service", alias="token_type")
    accessor: str = ""
    num_uses: int | None = None
    """0 is without limit; older servers don't say."""


class _LookUp(BaseModel):
    ttl: float = Field(ge=0, allow_inf_nan=False)
    creation_ttl: float = Field(default=0, ge=0, allow_inf_nan=False)
    period: float | None = None
    expire_time: str | None = None
    creation_time: int = 0
    num_uses: int = 0
    renewable: bool = False
    accessor: str = ""
    display_name: str = ""


class _Wrapping(BaseModel):
    creation_path: str = Field(min_length=1)


class _SecretId(BaseModel):
    secret_id: SecretStr = Field(min_length=1)


class _LeaseLeft(BaseModel):
    ttl: float = Field(allow_inf_nan=False)


def _understood(client: Client, model: type[M], answer: Any, path: str) -> M:
    """The answer as `model`; VaultUnavailable where it lacks what it has to hold."""
    try:
        return model.model_validate(answer)
    except ValidationError:
        pass
    # Not in the except block: pydantic's text quotes the answer, secrets and all.
    raise nonsense(Question(client.url, "", path), in_doubt=not answer)


def issue(client: Client, mount: str, role: str) -> Issued:
    """A new lease of `role`. Where the answer holds a lease but no login (another kind of engine), the lease is revoked."""
    path = f"{mount}/creds/{role}"
    answer = client.secrets.database.generate_credentials(quote(role, safe=""), mount_point=quote(mount))
    try:
        return _understood(client, Issued, answer, path)
    except VaultUnavailable:
        if answer.get("lease_id"):
            revoke(client, str(answer["lease_id"]))
        raise


def read_static(client: Client, mount: str, role: str) -> StaticLogin:
    """The password of a static role as it is now."""
    path = f"{mount}/static-creds/{role}"
    answer = client.secrets.database.get_static_credentials(quote(role, safe=""), mount_point=quote(mount))
    return _understood(client, StaticLogin, answer.get("data"), path)


def renew(client: Client, lease_id: str, increment: float) -> Extension:
    """Make the lease end `increment` seconds from now, rounded up to whole ones."""
    return _understood(client, Extension, client.sys.renew_lease(lease_id, math.ceil(increment)), "sys/leases/renew")


def look_up(client: Client, lease_id: str) -> float:
    """Seconds that the lease has left; LeaseLost."""
    answer = client.sys.read_lease(lease_id)
    left = _understood(client, _LeaseLeft, answer.get("data"), "sys/leases/lookup").ttl
    if left < 0:
        raise LeaseLost(f"Vault at {origin(client.url)} lets the lease end now: it is {-left:.0f} s past its end")
    return left


def revoke(client: Client, lease_id: str) -> None:
    """Revoke the lease, and return when its role is gone. A lease that is gone already counts as revoked."""
    # hvac's revoke_lease has no `sync`, without which Vault only queues the revocation.
    try:
        client.adapter.put("/v1/sys/leases/revoke", json={"lease_id": lease_id, "sync": True})
    except LeaseLost:
        return


def renew_self(client: Client, increment: float | None) -> Extension:
    """Make the client's token end `increment` seconds from now, rounded up to whole ones."""
    answer = client.auth.token.renew_self(None if increment is None else math.ceil(increment))
    if not answer:  # 204 is what Vault has to say of a token whose user or role is gone
        raise NotRenewable(f"Vault at {origin(client.url)} renews the token no more: the user or role that logged in is gone")
    return _understood(client, Extension, answer.get("auth"), "auth/token/renew-self")


def look_up_self(client: Client) -> Grant:
    """The client's token as Vault sees it. TokenInvalid: the default policy allows this to every token that lives."""
    try:
        return look_at_self(client)
    except PermissionDenied:
        raise TokenInvalid(
            f"Vault at {origin(client.url)} does not accept the token (expired, revoked or mistyped): "
            "unless a login or a file brings the next one by itself, give another in its place and start anew"
        ) from None


def look_at_self(client: Client) -> Grant:
    """The same of a token that may lack the right to. PermissionDenied then, and of a dead one."""
    seen = _understood(client, _LookUp, client.auth.token.lookup_self().get("data"), "auth/token/lookup-self")
    # In its last second a token has a ttl of 0 as well, but an expire_time.
    endless = seen.ttl == 0 and seen.expire_time is None
    return Grant(
        secret=SecretStr(client.token),
        ttl=None if endless else seen.ttl,
        renewable=seen.renewable,
        increment=seen.period or seen.creation_ttl or None,
        accessor=seen.accessor,
        display_name=seen.display_name,
        uses=seen.num_uses or None,
        identity=f"{seen.accessor} {seen.creation_time}",
        seen=True,
    )


def ask_health(client: Client) -> None:
    """Whether Vault serves, for want of a token that could be spent on it. Standbys do, by their leader."""
    # A namespace has no health: asked for one's, OpenBao refuses even while it is sealed, which would pass for an answer.
    client.adapter.namespace = None
    client.sys.read_health_status(standby_code=200, performance_standby_code=200, method="GET")


def granted(client: Client, answer: dict[str, Any], path: str) -> Grant:
    """The token that a login yielded, from the login's answer."""
    auth = _understood(client, _Auth, answer.get("auth"), path)
    uses = auth.num_uses if auth.num_uses is not None or auth.kind == "batch" else _uses(client, auth.client_token)
    return Grant(
        secret=auth.client_token,
        ttl=auth.lease_duration or None,
        renewable=auth.renewable,
        increment=auth.lease_duration or None,
        revocable=auth.kind != "batch",
        accessor=auth.accessor,
        uses=uses or None,
    )


def _uses(client: Client, token: SecretStr) -> int | None:
    """The uses that are left of a new token, for which one more is spent."""
    client.token = token.get_secret_value()
    try:
        return look_up_self(client).uses
    except TokenInvalid:  # no right to look, or that was its only use
        return None
    finally:
        client.token = ""


def creation_path(client: Client, wrapping: str) -> str:
    """Where the answer was made that the wrapping token holds. VaultRefused where the token has been used or has ended."""
    # hvac has no call for it.
    answer = client.adapter.post("/v1/sys/wrapping/lookup", json={"token": wrapping})
    return _understood(client, _Wrapping, answer.get("data"), "sys/wrapping/lookup").creation_path


def unwrap_secret_id(client: Client, wrapping: str) -> SecretStr:
    """The secret id that the wrapping token holds, which is used up by this."""
    # Unlike the look-up Vault does this for nobody without a token, and the wrapping token may do just this.
    client.token = wrapping
    try:
        answer = client.sys.unwrap()
    finally:
        client.token = ""
    return _understood(client, _SecretId, answer.get("data"), "sys/wrapping/unwrap").secret_id


def revoke_self(client: Client) -> None:
    """Revoke the client's token, and with it all leases that it asked for. A dead token counts as revoked."""
    try:
        client.auth.token.revoke_self()
    except TokenInvalid:
        return
    except PermissionDenied:
        if _lives(client):
            raise


def _lives(client: Client) -> bool:
    try:
        look_up_self(client)
    except TokenInvalid:
        return False
    return True


def telling_dead_from_denied(work: Callable[[Client], T], client: Client) -> T:
    """`work(client)`, where PermissionDenied really is one: Vault says the same of a missing right and of a dead token.

    Raises TokenInvalid of a dead token, VaultUnavailable where nobody can tell.
    """
    try:
        return work(client)
    except PermissionDenied as denied:
        error = denied
    try:
        look_up_self(client)
    except VaultUnavailable as unknown:
        unknown.in_doubt = False  # whatever the look-up came to, what was asked was denied
        raise
    raise error
