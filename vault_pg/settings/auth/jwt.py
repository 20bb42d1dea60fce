"""Logins by a signed JSON Web Token: of a Kubernetes service account, or of any issuer that Vault trusts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from vault_pg.settings.auth.base import (
    METHOD_FIELD,
    METHOD_VARIABLE,
    MOUNT_FIELD,
    OPTIONAL_ROLE_FIELD,
    ROLE_FIELD,
    AuthMethod,
    one_of,
)
from vault_pg.settings.tree import Variable
from vault_pg.settings.values import Mount, ReadableFile, Role, Secret

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


class KubernetesAuth(AuthMethod):
    """The service account of a pod. The kubelet rewrites the file, so it is read anew at each login."""

    method: Annotated[Literal["kubernetes"], METHOD_VARIABLE, METHOD_FIELD] = "kubernetes"
    role: Annotated[Role, Variable("VAULT_PG_KUBERNETES_ROLE"), ROLE_FIELD]
    token_file: Annotated[
        ReadableFile,
        Variable("VAULT_PG_KUBERNETES_TOKEN_FILE"),
        Field(description="The service account's token, read anew at each login; the default is where the kubelet puts it"),
    ] = SERVICE_ACCOUNT
    mount: Annotated[Mount, Variable("VAULT_PG_KUBERNETES_MOUNT"), MOUNT_FIELD] = "kubernetes"


class JwtAuth(AuthMethod):
    """A JWT of any issuer (Vault's auth method `jwt`; a mount of `oidc` takes them too)."""

    alternatives: ClassVar[frozenset[str]] = frozenset({"jwt", "jwt_file"})

    method: Annotated[Literal["jwt"], METHOD_VARIABLE, METHOD_FIELD] = "jwt"
    role: Annotated[Role | None, Variable("VAULT_PG_JWT_ROLE"), OPTIONAL_ROLE_FIELD] = None
    jwt: Annotated[Secret | None, Variable("VAULT_PG_JWT_JWT"), Field(description="The JWT")] = None
    jwt_file: Annotated[
        ReadableFile | None, Variable("VAULT_PG_JWT_JWT_FILE"), Field(description="A file with the JWT, read anew at each login")
    ] = None
    mount: Annotated[Mount, Variable("VAULT_PG_JWT_MOUNT"), MOUNT_FIELD] = "jwt"

    @field_validator("jwt_file")
    @classmethod
    def _one_jwt(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        return one_of(value, info, "jwt", "JWT")
