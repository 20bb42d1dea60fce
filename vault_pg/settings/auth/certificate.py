"""Login by our own TLS certificate."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from vault_pg.settings.auth.base import METHOD_FIELD, METHOD_VARIABLE, MOUNT_FIELD, AuthMethod
from vault_pg.settings.tree import Variable
from vault_pg.settings.values import Mount, Role


class CertAuth(AuthMethod):
    """The certificate of `vault.client_cert`; both files are read anew for each request."""

    method: Annotated[Literal["cert"], METHOD_VARIABLE, METHOD_FIELD] = "cert"
    role: Annotated[
        Role | None,
        Variable("VAULT_PG_CERT_ROLE"),
        Field(description="Certificate role; without it Vault tries all of them"),
    ] = None
    mount: Annotated[Mount, Variable("VAULT_PG_CERT_MOUNT"), MOUNT_FIELD] = "cert"
