"""What all login methods have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo

from vault_pg.settings.model import Model
from vault_pg.settings.tree import Variable
from vault_pg.settings.values import missing, mistake

METHOD_VARIABLE = Variable("VAULT_PG_AUTH")
METHOD_FIELD = Field(description="How to log in to Vault")
MOUNT_FIELD = Field(description="Where the auth method is mounted, without auth/")
ROLE_FIELD = Field(title="role of the login", description="Role of the auth method")
OPTIONAL_ROLE_FIELD = Field(description="Role of the auth method; without it the method's default one")


class AuthMethod(Model):
    """Base of the login methods. A subclass with `method: Literal[…]` added to `AuthSettings` is all that a new one needs."""

    alternatives: ClassVar[frozenset[str]] = frozenset()
    """Settings of which one is enough: given by a stronger source, it replaces the others given by weaker ones."""


def _password(value: SecretStr) -> SecretStr:
    if not value.get_secret_value():
        raise mistake("is empty: give a value, or leave it out")
    return value


Password = Annotated[SecretStr, AfterValidator(_password)]
"""Any text; it travels in the body of a request."""


def one_of(value: Path | None, info: ValidationInfo, other: str, what: str) -> Path | None:
    """Of a file and what may be given instead of it, exactly one; `what` is what both of them hold."""
    if other not in info.data:
        return value  # that mistake is told already
    if value is not None and info.data[other] is not None:
        raise mistake("is given besides {other}: give only one of them", other=other)
    if value is None and info.data[other] is None:
        raise missing(what, other, str(info.field_name))
    return value
