"""Logins by the identity that a cloud gives to its machines."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from vault_pg.settings.auth.base import METHOD_FIELD, METHOD_VARIABLE, MOUNT_FIELD, OPTIONAL_ROLE_FIELD, ROLE_FIELD, AuthMethod
from vault_pg.settings.tree import Variable
from vault_pg.settings.values import HeaderText, Mount, ReadableFile, Role, Secret, mistake

JWT_FIELD = Field(description="The identity's JWT; without it and its file the metadata service of the machine is asked for one")
JWT_FILE_FIELD = Field(description="A file with the JWT, read anew at each login")


class AwsAuth(AuthMethod):
    """AWS IAM: a signed GetCallerIdentity request. Without keys botocore, if it is installed, finds them anew at each login."""

    method: Annotated[Literal["aws"], METHOD_VARIABLE, METHOD_FIELD] = "aws"
    role: Annotated[Role | None, Variable("VAULT_PG_AWS_ROLE"), OPTIONAL_ROLE_FIELD] = None
    access_key: Annotated[HeaderText | None, Variable("AWS_ACCESS_KEY_ID"), Field(description="AWS access key id")] = None
    secret_key: Annotated[
        Secret | None,
        Variable("AWS_SECRET_ACCESS_KEY"),
        Field(description="AWS secret access key; without both botocore is asked, if it is installed"),
    ] = None
    session_token: Annotated[
        Secret | None, Variable("AWS_SESSION_TOKEN"), Field(description="AWS session token, of temporary keys")
    ] = None
    region: Annotated[HeaderText, Variable("VAULT_PG_AWS_REGION"), Field(description="Region that the request is signed for")] = (
        "us-east-1"
    )
    header_value: Annotated[
        HeaderText | None,
        Variable("VAULT_PG_AWS_HEADER_VALUE"),
        Field(description="What Vault wants in X-Vault-AWS-IAM-Server-ID, where it wants that"),
    ] = None
    mount: Annotated[Mount, Variable("VAULT_PG_AWS_MOUNT"), MOUNT_FIELD] = "aws"

    @field_validator("secret_key")
    @classmethod
    def _both_keys(cls, value: object, info: ValidationInfo) -> object:
        if "access_key" not in info.data:
            return value  # that mistake is told already
        access_key = info.data["access_key"]
        if (value is None) != (access_key is None):
            raise mistake(
                "and {other} belong together: {needs}, or leave both out",
                other="access_key",
                needs=("access_key" if access_key is None else "secret_key",),
            )
        if value is None and importlib.util.find_spec("botocore") is None:
            raise mistake("is not given: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or install botocore")
        return value


class AzureAuth(AuthMethod):
    """The managed identity of an Azure machine."""

    alternatives: ClassVar[frozenset[str]] = frozenset({"jwt", "jwt_file"})

    method: Annotated[Literal["azure"], METHOD_VARIABLE, METHOD_FIELD] = "azure"
    role: Annotated[Role, Variable("VAULT_PG_AZURE_ROLE"), ROLE_FIELD]
    jwt: Annotated[Secret | None, Variable("VAULT_PG_AZURE_JWT"), JWT_FIELD] = None
    jwt_file: Annotated[ReadableFile | None, Variable("VAULT_PG_AZURE_JWT_FILE"), JWT_FILE_FIELD] = None
    resource: Annotated[
        HeaderText,
        Variable("VAULT_PG_AZURE_RESOURCE"),
        Field(description="Audience of the token, as in the method's configuration"),
    ] = "https://management.azure.com/"
    metadata: Annotated[
        HeaderText, Variable("VAULT_PG_AZURE_METADATA"), Field(description="URL of the machine's metadata service")
    ] = "http://169.254.169.254"
    mount: Annotated[Mount, Variable("VAULT_PG_AZURE_MOUNT"), MOUNT_FIELD] = "azure"

    @field_validator("jwt_file")
    @classmethod
    def _one_jwt(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        return _at_most_one(value, info)


class GcpAuth(AuthMethod):
    """The service account of a machine in Google's cloud."""

    alternatives: ClassVar[frozenset[str]] = frozenset({"jwt", "jwt_file"})

    method: Annotated[Literal["gcp"], METHOD_VARIABLE, METHOD_FIELD] = "gcp"
    role: Annotated[Role, Variable("VAULT_PG_GCP_ROLE"), ROLE_FIELD]
    jwt: Annotated[Secret | None, Variable("VAULT_PG_GCP_JWT"), JWT_FIELD] = None
    jwt_file: Annotated[ReadableFile | None, Variable("VAULT_PG_GCP_JWT_FILE"), JWT_FILE_FIELD] = None
    metadata: Annotated[
        HeaderText, Variable("VAULT_PG_GCP_METADATA"), Field(description="URL of the machine's metadata service")
    ] = "http://metadata.google.internal"
    mount: Annotated[Mount, Variable("VAULT_PG_GCP_MOUNT"), MOUNT_FIELD] = "gcp"

    @field_validator("jwt_file")
    @classmethod
    def _one_jwt(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        return _at_most_one(value, info)


def _at_most_one(value: Path | None, info: ValidationInfo) -> Path | None:
    if value is not None and info.data.get("jwt") is not None:
        raise mistake("is given besides {other}: give only one of them", other="jwt")
    return value
