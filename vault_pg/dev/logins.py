"""A login of each method on a dev Vault, with all that a service needs to log in by it: to try them, with no cloud and no cluster."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vault_pg.dev.provision import provision_approle

if TYPE_CHECKING:
    import hvac

TOKEN_TTL = 3600
NAME = "app"
"""Of the AppRole, the user, the service account, and the role of the auth method."""

JWT_LIFE = 30 * 24 * 3600
"""Seconds; longer than anybody tries things on one dev Vault."""


class LoginMethod(StrEnum):
    """The methods that `vault-pg dev` sets up."""

    TOKEN = "token"  # noqa: S105 - a kind of login
    APPROLE = "approle"
    USERPASS = "userpass"
    KUBERNETES = "kubernetes"
    JWT = "jwt"


def provision_login(client: hvac.Client, method: LoginMethod, policy: str, folder: Path) -> dict[str, str]:
    """Mount the auth method, and return the variables of a service that logs in by it and gets `policy`.

    A file that such a service reads is put into `folder`. `client` needs a token that may do all that; hvac's errors pass through.
    """
    return {"VAULT_PG_AUTH": str(method)} | _METHODS[method](client, policy, folder)


def _token(client: hvac.Client, policy: str, _: Path) -> dict[str, str]:
    token = client.auth.token.create(policies=[policy], period=f"{TOKEN_TTL}s", display_name="dev")
    return {"VAULT_TOKEN": token["auth"]["client_token"]}


def _approle(client: hvac.Client, policy: str, _: Path) -> dict[str, str]:
    login = provision_approle(client, NAME, policies=[policy], token_ttl=TOKEN_TTL)
    return {"VAULT_PG_APPROLE_ROLE_ID": login.role_id, "VAULT_PG_APPROLE_SECRET_ID": login.secret_id.get_secret_value()}


def _userpass(client: hvac.Client, policy: str, _: Path) -> dict[str, str]:
    password = secrets.token_urlsafe(16)
    client.sys.enable_auth_method("userpass")
    client.auth.userpass.create_or_update_user(NAME, password=password, policies=policy)
    return {"VAULT_PG_USERPASS_USERNAME": NAME, "VAULT_PG_USERPASS_PASSWORD": password}


def _kubernetes(client: hvac.Client, policy: str, folder: Path) -> dict[str, str]:
    public, token = _signed({"kubernetes.io": {"namespace": "default", "serviceaccount": {"name": NAME}}})
    client.sys.enable_auth_method("kubernetes")
    # Not by hvac's configure(), which takes certificates and no bare keys.
    client.adapter.post(
        "/v1/auth/kubernetes/config", json={"kubernetes_host": "https://kubernetes.default.svc", "pem_keys": [public]}
    )
    client.auth.kubernetes.create_role(NAME, [NAME], ["default"], policies=[policy])
    file = folder / "service-account"
    file.touch(mode=0o600)
    file.write_text(token)
    return {"VAULT_PG_KUBERNETES_ROLE": NAME, "VAULT_PG_KUBERNETES_TOKEN_FILE": str(file)}


def _jwt(client: hvac.Client, policy: str, _: Path) -> dict[str, str]:
    public, token = _signed({"sub": NAME, "aud": "vault"})
    client.sys.enable_auth_method("jwt")
    client.auth.jwt.configure(jwt_validation_pubkeys=[public])
    client.auth.jwt.create_role(
        NAME, user_claim="sub", allowed_redirect_uris=[], role_type="jwt", bound_audiences=["vault"], token_policies=[policy]
    )
    return {"VAULT_PG_JWT_ROLE": NAME, "VAULT_PG_JWT_JWT": token}


_METHODS: Mapping[LoginMethod, Callable[[hvac.Client, str, Path], dict[str, str]]] = {
    LoginMethod.TOKEN: _token,
    LoginMethod.APPROLE: _approle,
    LoginMethod.USERPASS: _userpass,
    LoginMethod.KUBERNETES: _kubernetes,
    LoginMethod.JWT: _jwt,
}


def _signed(claims: Mapping[str, Any]) -> tuple[str, str]:
    """A public key, PEM, and a JWT that it vouches for."""
    import jwt  # noqa: PLC0415 - with its cryptography slow to import
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return public.decode(), jwt.encode({"exp": time.time() + JWT_LIFE, **claims}, key, algorithm="ES256")
