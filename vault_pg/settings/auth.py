"""How to log in to Vault: one class for each method, chosen by `method`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field, ValidationInfo, field_validator

from vault_pg.settings.model import Model
from vault_pg.settings.tree import Variable, method_of, models_in
from vault_pg.settings.values import HeaderText, Mount, ReadableFile, Secret, mistake

METHOD_VARIABLE = Variable("VAULT_PG_AUTH")
METHOD_FIELD = Field(description="How to log in to Vault")


class AuthMethod(Model):
    """Base of the login methods. A subclass with `method: Literal[…]` added to `AuthSettings` is all that a new one needs."""

    alternatives: ClassVar[frozenset[str]] = frozenset()
    """Settings of which one is enough: given by a stronger source, it replaces the others given by weaker ones."""


class TokenAuth(AuthMethod):
    """A token that someone else got. It is renewed while it can be, and never revoked."""

    method: Annotated[Literal["token"], METHOD_VARIABLE, METHOD_FIELD] = "token"
    token: Annotated[
        Secret | None, Variable("VAULT_TOKEN"), Field(description="The token; without one, the content of ~/.vault-token")
    ] = None


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
    mount: Annotated[
        Mount, Variable("VAULT_PG_APPROLE_MOUNT"), Field(description="Where the auth method is mounted, without auth/")
    ] = "approle"

    @field_validator("secret_id_file")
    @classmethod
    def _one_secret_id(cls, value: object, info: ValidationInfo) -> object:
        if value is not None and info.data.get("secret_id") is not None:
            raise mistake("is given besides {other}: give only one of them", other="secret_id")
        return value


AuthSettings: TypeAlias = Annotated[TokenAuth | AppRoleAuth, Field(discriminator="method")]
METHODS: dict[str, type[AuthMethod]] = {
    method_of(model): model for model in models_in(AuthSettings) if issubclass(model, AuthMethod)
}
