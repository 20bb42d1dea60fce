"""AppRole."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from vault_pg.settings.auth.base import METHOD_FIELD, METHOD_VARIABLE, MOUNT_FIELD, AuthMethod
from vault_pg.settings.tree import Variable
from vault_pg.settings.values import HeaderText, Mount, ReadableFile, Role, Secret, mistake


class AppRoleAuth(AuthMethod):
    """An AppRole login. The token is ours: renewed, replaced by a new login in time, revoked at the end."""

    alternatives: ClassVar[frozenset[str]] = frozenset({"secret_id", "secret_id_file"})

    method: Annotated[Literal["approle"], METHOD_VARIABLE, METHOD_FIELD] = "approle"
    role_id: Annotated[
        HeaderText, Variable("VAULT_PG_APPROLE_ROLE_ID"), Field(title="AppRole role id", description="The role id")
    ]
    secret_id: Annotated[
        Secret | None,
        Variable("VAULT_PG_APPROLE_SECRET_ID"),
        Field(description="The secret id; may be left out where the AppRole has bind_secret_id=false"),
    ] = None
    secret_id_file: Annotated[
        ReadableFile | None,
        Variable("VAULT_PG_APPROLE_SECRET_ID_FILE"),
        Field(description="A file with the secret id, read anew at each login"),
    ] = None
    wrapped: Annotated[
        bool,
        Variable("VAULT_PG_APPROLE_WRAPPED"),
        Field(description="The secret id is a response-wrapping token; where it was made is checked before it is unwrapped"),
    ] = False
    role: Annotated[
        Role | None,
        Variable("VAULT_PG_APPROLE_ROLE"),
        Field(description="Name of the AppRole that a wrapped secret id has to be of; without it any role of the mount"),
    ] = None
    mount: Annotated[Mount, Variable("VAULT_PG_APPROLE_MOUNT"), MOUNT_FIELD] = "approle"

    @field_validator("secret_id_file")
    @classmethod
    def _one_secret_id(cls, value: object, info: ValidationInfo) -> object:
        if value is not None and info.data.get("secret_id") is not None:
            raise mistake("is given besides {other}: give only one of them", other="secret_id")
        return value

    @field_validator("wrapped")
    @classmethod
    def _something_wrapped(cls, value: bool, info: ValidationInfo) -> bool:
        given = {"secret_id", "secret_id_file"} <= set(info.data)
        if value and given and info.data["secret_id"] is None and info.data["secret_id_file"] is None:
            raise mistake("is set with no secret id: {needs}", needs=("secret_id", "secret_id_file"))
        return value
