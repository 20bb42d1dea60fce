"""Logins by the identity that a cloud gives to its machines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from pydantic import BaseModel, SecretStr, ValidationError

from vault_pg.errors import LoginFailed, VaultUnavailable
from vault_pg.settings import AwsAuth, AzureAuth, GcpAuth
from vault_pg.vault.endpoints import Client, Grant
from vault_pg.vault.logins.login import Blocking, Supply, ask, either
from vault_pg.vault.logins.metadata import fetch

INSTANCE_FIELDS = {
    "subscription_id": "subscriptionId",
    "resource_group_name": "resourceGroupName",
    "vm_name": "name",
    "vmss_name": "vmScaleSetName",
}
"""What Vault wants to know of an Azure machine, and what its metadata service calls it."""


class _Identity(BaseModel):
    access_token: SecretStr


class _Instance(BaseModel):
    compute: dict[str, Any] = {}


class Keys(NamedTuple):
    """AWS credentials."""

    access: str
    secret: str
    session: str | None


@dataclass(frozen=True, slots=True)
class Aws(Blocking):
    """AWS IAM: hvac signs a GetCallerIdentity request, which Vault sends to AWS."""

    auth: AwsAuth
    method: ClassVar[str] = "aws"
    supply: ClassVar[Supply] = "repeatable"

    def login(self, client: Client) -> Grant:
        auth, keys = self.auth, self._keys()

        def log_in() -> object:
            return client.auth.aws.iam_login(
                keys.access,
                keys.secret,
                session_token=keys.session,
                header_value=auth.header_value,
                role=auth.role,
                use_token=False,
                region=auth.region,
                mount_point=auth.mount,
            )

        return ask(client, "AWS", auth.mount, "AWS identity", log_in)

    def _keys(self) -> Keys:
        auth = self.auth
        if auth.access_key is not None and auth.secret_key is not None:
            session = None if auth.session_token is None else auth.session_token.get_secret_value()
            return Keys(auth.access_key, auth.secret_key.get_secret_value(), session)
        found = _found_by_botocore()
        if found is None:
            raise LoginFailed(
                "the AWS login failed: there are no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give "
                "this machine a role and install botocore"
            )
        return Keys(found.access_key, found.secret_key, found.token)


def _found_by_botocore() -> Any:
    try:
        from botocore.session import get_session  # noqa: PLC0415 - an SDK that few have
    except ImportError:
        return None
    credentials = get_session().get_credentials()
    return None if credentials is None else credentials.get_frozen_credentials()


@dataclass(frozen=True, slots=True)
class Azure(Blocking):
    """The managed identity of the machine, or a given JWT."""

    auth: AzureAuth
    method: ClassVar[str] = "azure"
    supply: ClassVar[Supply] = "repeatable"

    def login(self, client: Client) -> Grant:
        auth = self.auth
        jwt = either(auth.jwt, auth.jwt_file, "Azure", "JWT")
        machine: dict[str, str] = {}
        if jwt is None:
            jwt, machine = self._identity(client)

        def log_in() -> object:
            return client.auth.azure.login(auth.role, jwt, use_token=False, mount_point=auth.mount, **machine)

        return ask(client, "Azure", auth.mount, "managed identity", log_in)

    def _identity(self, client: Client) -> tuple[str, dict[str, str]]:
        """The identity's JWT, and what machine it belongs to."""
        base, headers = self.auth.metadata.rstrip("/") + "/metadata", {"Metadata": "true"}
        query = {"api-version": "2018-02-01", "resource": self.auth.resource}
        deadline = client.adapter.deadline
        token = fetch("Azure", f"{base}/identity/oauth2/token", headers, query, deadline)
        instance = fetch("Azure", f"{base}/instance", headers, {"api-version": "2021-02-01"}, deadline)
        try:
            jwt = _Identity.model_validate_json(token).access_token.get_secret_value()
            compute = _Instance.model_validate_json(instance).compute
        except ValidationError:
            jwt, compute = "", {}
        if not jwt:
            raise VaultUnavailable(
                "the Azure login cannot be made: the metadata service answers nonsense: is VAULT_PG_AZURE_METADATA right?"
            )
        return jwt, {name: str(compute[key]) for name, key in INSTANCE_FIELDS.items() if compute.get(key)}


@dataclass(frozen=True, slots=True)
class Gcp(Blocking):
    """The service account of the machine, or a given JWT."""

    auth: GcpAuth
    method: ClassVar[str] = "gcp"
    supply: ClassVar[Supply] = "repeatable"

    def login(self, client: Client) -> Grant:
        auth = self.auth
        jwt = either(auth.jwt, auth.jwt_file, "GCP", "JWT") or self._identity(client)

        def log_in() -> object:
            return client.auth.gcp.login(auth.role, jwt, use_token=False, mount_point=auth.mount)

        return ask(client, "GCP", auth.mount, "service account", log_in)

    def _identity(self, client: Client) -> str:
        url = f"{self.auth.metadata.rstrip('/')}/computeMetadata/v1/instance/service-accounts/default/identity"
        query = {"audience": f"vault/{self.auth.role}", "format": "full"}
        return fetch("GCP", url, {"Metadata-Flavor": "Google"}, query, client.adapter.deadline).strip()
