"""A server set up as the recorded one was, and what has to be true before each recorded request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import hvac
import requests
from pydantic import SecretStr

from tests.servers import VaultServer, client_of
from tests.waiting import until
from vault_pg.dev import DevVault, EmbeddedPostgres, Target

CREATION = "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}';"
ROTATION = "ALTER USER \"{{name}}\" WITH PASSWORD '{{password}}';"
POLICY = """
# What the recorded service was allowed to do.
path "database/creds/app" { capabilities = ["read"] }
path "sys/leases/renew" { capabilities = ["update"] }
path "sys/leases/revoke" { capabilities = ["update"] }
"""
TIMEOUT = 30


@dataclass
class Before:
    """What a recorded request needs: a token, values for its placeholders, an end to wait for."""

    token: SecretStr | None = None
    values: dict[str, str] = field(default_factory=dict)
    until: Callable[[requests.Response], bool] | None = None
    after: Callable[[], object] | None = None


class World:
    """The mounts database/, approle/ and userpass/ with the recorded roles and users."""

    def __init__(self, server: VaultServer, postgres: EmbeddedPostgres) -> None:
        self.server = server
        self.postgres = postgres
        self.root = client_of(server)
        self._set_up()

    def _set_up(self) -> None:
        root, target = self.root, Target.of(self.postgres)
        root.sys.create_or_update_policy("app", POLICY)
        root.sys.enable_secrets_engine("database")
        root.secrets.database.configure(
            "app",
            "postgresql-database-plugin",
            allowed_roles=["*"],
            connection_url=target.connection_url,
            username=target.username,
            password=target.password.get_secret_value(),
        )
        self.role("app", 10, 25)
        self.role("long", 3600, 24 * 3600)
        self.role("broken", 10, 25, creation='CREATE ROLE "{{name}}" syntax error;')
        self.role("norevoke", 10, 25, revocation=['DROP ROLE "no such role of {{name}}";'])
        self._set_up_static_role()
        self._set_up_logins()

    def role(self, name: str, ttl: int, max_ttl: int, *, creation: str = CREATION, revocation: list[str] | None = None) -> None:
        self.root.secrets.database.create_role(
            name, "app", [creation], default_ttl=ttl, max_ttl=max_ttl, revocation_statements=revocation or []
        )

    def _set_up_static_role(self) -> None:
        with self.postgres.admin() as conn:
            conn.execute("DROP ROLE IF EXISTS legacy")
            conn.execute("CREATE ROLE legacy LOGIN")
        self.root.secrets.database.create_static_role("legacy", "app", "legacy", [ROTATION], rotation_period="10s")

    def _set_up_logins(self) -> None:
        root = self.root
        root.sys.enable_auth_method("approle")
        root.sys.enable_auth_method("userpass")
        root.auth.approle.create_or_update_approle("app", token_policies=["app"], token_ttl="20s", token_max_ttl="40s")
        root.auth.approle.create_or_update_approle("batchy", token_policies=["app"], token_ttl="20s", token_type="batch")
        root.auth.userpass.create_or_update_user("bob", password="pw", policies="app")

    def token(self, **options: Any) -> SecretStr:
        # Not by hvac's own call, which sends a display name.
        body = {"policies": ["app"], "ttl": "20s", "explicit_max_ttl": "40s", **options}
        answer = self.root.adapter.post("/v1/auth/token/create", json=body)
        return SecretStr(answer["auth"]["client_token"])

    def approle_ids(self, role: str = "app") -> dict[str, str]:
        role_id = self.root.auth.approle.read_role_id(role)["data"]["role_id"]
        secret_id = self.root.auth.approle.generate_secret_id(role)["data"]["secret_id"]
        return {"<role_id>": role_id, "<uuid>": role_id, "<secret_id>": secret_id}

    def approle_token(self, role: str = "app") -> SecretStr:
        ids = self.approle_ids(role)
        answer = client_of(self.server).auth.approle.login(ids["<role_id>"], ids["<secret_id>"], use_token=False)
        return SecretStr(answer["auth"]["client_token"])

    def wrapping_token(self) -> SecretStr:
        answer = self.root.adapter.post("/v1/auth/approle/role/app/secret-id", wrap_ttl="60s")
        return SecretStr(answer["wrap_info"]["token"])

    def lease(self, role: str = "app", token: SecretStr | None = None) -> str:
        """A new lease; its answer's last part is what stands for <lease>."""
        client = client_of(self.server, token)
        return str(client.secrets.database.generate_credentials(role)["lease_id"])

    def known(self, lease_id: str) -> bool:
        try:
            self.root.sys.read_lease(lease_id)
        except hvac.exceptions.InvalidRequest:
            return False
        return True

    def gone_lease(self) -> str:
        self.role("app", 1, 25)
        lease_id = self.lease()
        self.role("app", 10, 25)
        return self.ended(lease_id)

    def ended(self, lease_id: str) -> str:
        until(lambda: not self.known(lease_id), "the lease has ended")
        return lease_id

    def send(self, request: dict[str, Any], before: Before) -> requests.Response:
        """The recorded request, with its placeholders filled in."""

        def filled(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: filled(inner) for key, inner in value.items()}
            for placeholder, real in before.values.items():
                value = value.replace(placeholder, real) if isinstance(value, str) else value
            return value

        headers = dict(request["headers"])
        if before.token:
            headers["X-Vault-Token"] = before.token.get_secret_value()
        url = f"{self.server.address}/v1/{filled(request['path'])}"
        return requests.request(request["method"], url, json=filled(request["body"]), headers=headers, timeout=TIMEOUT)

    def seal(self) -> None:
        if not self.root.sys.is_sealed():
            self.root.sys.seal()

    def unseal(self) -> None:
        """Only the dev Vault tells its key; a real server stays sealed, which is why those exchanges come last."""
        if isinstance(self.server, DevVault):
            self.root.sys.submit_unseal_key(self.server.unseal_key.get_secret_value())

    def stop_postgres(self) -> None:
        self.postgres.stop(immediate=True)
