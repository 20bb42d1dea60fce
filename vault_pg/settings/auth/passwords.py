"""Logins by user name and password."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from vault_pg.settings.auth.base import METHOD_FIELD, METHOD_VARIABLE, MOUNT_FIELD, AuthMethod, Password, one_of
from vault_pg.settings.tree import Variable
from vault_pg.settings.values import Mount, ReadableFile, Username

USERNAME_FIELD = Field(title="user name of the login", description="The user name")
PASSWORD_FIELD = Field(description="The password")
PASSWORD_FILE_FIELD = Field(description="A file with the password, read anew at each login")


class UserpassAuth(AuthMethod):
    """A user of Vault's own."""

    alternatives: ClassVar[frozenset[str]] = frozenset({"password", "password_file"})

    method: Annotated[Literal["userpass"], METHOD_VARIABLE, METHOD_FIELD] = "userpass"
    username: Annotated[Username, Variable("VAULT_PG_USERPASS_USERNAME"), USERNAME_FIELD]
    password: Annotated[Password | None, Variable("VAULT_PG_USERPASS_PASSWORD"), PASSWORD_FIELD] = None
    password_file: Annotated[ReadableFile | None, Variable("VAULT_PG_USERPASS_PASSWORD_FILE"), PASSWORD_FILE_FIELD] = None
    mount: Annotated[Mount, Variable("VAULT_PG_USERPASS_MOUNT"), MOUNT_FIELD] = "userpass"

    @field_validator("password_file")
    @classmethod
    def _one_password(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        return one_of(value, info, "password", "password of the login")


class LdapAuth(AuthMethod):
    """A user of a directory that Vault asks."""

    alternatives: ClassVar[frozenset[str]] = frozenset({"password", "password_file"})

    method: Annotated[Literal["ldap"], METHOD_VARIABLE, METHOD_FIELD] = "ldap"
    username: Annotated[Username, Variable("VAULT_PG_LDAP_USERNAME"), USERNAME_FIELD]
    password: Annotated[Password | None, Variable("VAULT_PG_LDAP_PASSWORD"), PASSWORD_FIELD] = None
    password_file: Annotated[ReadableFile | None, Variable("VAULT_PG_LDAP_PASSWORD_FILE"), PASSWORD_FILE_FIELD] = None
    mount: Annotated[Mount, Variable("VAULT_PG_LDAP_MOUNT"), MOUNT_FIELD] = "ldap"

    @field_validator("password_file")
    @classmethod
    def _one_password(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        return one_of(value, info, "password", "password of the login")
