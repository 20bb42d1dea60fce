"""Login by our own TLS certificate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vault_pg.settings import CertAuth
from vault_pg.vault.endpoints import Client, Grant
from vault_pg.vault.logins.login import Blocking, Supply, ask


@dataclass(frozen=True, slots=True)
class Cert(Blocking):
    """The certificate with which the connection is made anyway."""

    auth: CertAuth
    method: ClassVar[str] = "cert"
    supply: ClassVar[Supply] = "repeatable"

    def login(self, client: Client) -> Grant:
        auth = self.auth
        # hvac's own login wants files of its own, and refuses to go without checking Vault's certificate.
        body = {} if auth.role is None else {"name": auth.role}

        def log_in() -> object:
            return client.adapter.login(f"/v1/auth/{auth.mount}/login", use_token=False, json=body)

        return ask(client, "certificate", auth.mount, "client certificate", log_in)
