"""Where a database's user name and password come from: one class for each kind of source, chosen by `kind`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Field, ValidationInfo, WrapValidator, field_serializer, field_validator

from vault_pg.settings.model import Model
from vault_pg.settings.tree import Variable, method_of, models_in
from vault_pg.settings.values import Seconds, UserPath, missing, mistake, plain, takes
from vault_pg.source import CredentialSource

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from pydantic import SecretStr

    from vault_pg.lease import Grant

    Password: TypeAlias = str | SecretStr
    Given: TypeAlias = Password | tuple[Password, float] | Grant
    PasswordCall: TypeAlias = Callable[[], Given] | Callable[[], Awaitable[Given]]
else:
    PasswordCall = Callable[..., Any]  # pydantic checks no more than this

KIND_VARIABLE = Variable("VAULT_PG_SOURCE")
KIND_FIELD = Field(description="Where user name and password come from")


class SourceModel(Model):
    """Base of the kinds of sources. A subclass with `kind: Literal[…]` added to `SourceSettings` is all that a new one needs."""


class DynamicSource(SourceModel):
    """A dynamic role of Vault: a PostgreSQL role of our own for each lease, which Vault drops when that ends. The default."""

    kind: Annotated[Literal["dynamic"], KIND_VARIABLE, KIND_FIELD] = "dynamic"


class StaticSource(SourceModel):
    """A static role of Vault: a PostgreSQL role that exists, and whose password Vault changes now and then."""

    kind: Annotated[Literal["static"], KIND_VARIABLE, KIND_FIELD] = "static"


class FileSource(SourceModel):
    """A file that somebody else writes and rewrites: Vault Agent, a CSI driver, a Kubernetes secret.

    `path` is a JSON file with `username` and `password` (as Vault Agent's `{{ .Data | toJSON }}` writes it), or a directory with files
    of these names (as Kubernetes mounts a secret). Or give `password_file` with `username_file` or `username`.
    """

    kind: Annotated[Literal["file"], KIND_VARIABLE, KIND_FIELD] = "file"
    path: Annotated[
        UserPath | None,
        Variable("VAULT_PG_SOURCE_PATH"),
        Field(description="A JSON file with username and password, or a directory with files of these names"),
    ] = None
    username: Annotated[
        str | None, Variable("VAULT_PG_SOURCE_USERNAME"), Field(min_length=1, description="The user name, where it never changes")
    ] = None
    username_file: Annotated[
        UserPath | None, Variable("VAULT_PG_SOURCE_USERNAME_FILE"), Field(description="A file with the user name alone")
    ] = None
    password_file: Annotated[
        UserPath | None, Variable("VAULT_PG_SOURCE_PASSWORD_FILE"), Field(description="A file with the password alone")
    ] = None
    interval: Annotated[
        Seconds,
        Variable("VAULT_PG_SOURCE_INTERVAL"),
        Field(description="Seconds between two looks at the files; a refused login makes them be read at once"),
    ] = 5.0

    @field_validator("username_file")
    @classmethod
    def _one_username(cls, value: object, info: ValidationInfo) -> object:
        if value is not None and info.data.get("username") is not None:
            raise mistake("is given besides {other}: give only one of them", other="username")
        return value

    @field_validator("password_file")
    @classmethod
    def _one_form(cls, value: object, info: ValidationInfo) -> object:
        if not {"path", "username", "username_file"} <= info.data.keys():
            return value  # a mistake in one of them is told already
        user = info.data["username"] is not None or info.data["username_file"] is not None
        if info.data["path"] is not None and (user or value is not None):
            raise mistake("or a user name is given besides {other}: give one or the other", other="path")
        if info.data["path"] is None and value is None:
            raise missing("file of the credential", "path", "password_file")
        if value is not None and not user:
            raise mistake("is given without a user name: {needs}, or give path alone", needs=("username", "username_file"))
        return value


class CallableSource(SourceModel):
    """A function of yours that gives short-lived passwords: a token of AWS RDS, Azure, Google Cloud. From Python only.

    `call()`, a coroutine function or one that runs in a thread, returns the password, or password and seconds to live, or a Grant.
    What is given alone is the password of `username`, and new logins by it work for `ttl` seconds.
    """

    kind: Annotated[Literal["callable"], KIND_VARIABLE, KIND_FIELD] = "callable"
    call: Annotated[
        PasswordCall,
        Field(title="function of the source", description="Function that returns a password, (password, seconds), or a Grant"),
    ]
    username: Annotated[
        str | None, Field(min_length=1, description="Whose passwords they are; needed unless it returns Grants")
    ] = None
    ttl: Annotated[
        Seconds | None, Field(description="Seconds for which a password works; without it until a login is refused")
    ] = None

    @field_validator("call")
    @classmethod
    def _called(cls, value: object) -> object:
        if not takes(value):
            raise mistake(f"is {name_of(value)}, which cannot be called without arguments: let it take none")
        return value

    @field_serializer("call", when_used="json")
    def _json_call(self, value: object) -> str:
        return name_of(value)

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        # A functools.partial shows what it was given.
        for name, value in super().__repr_args__():
            yield name, name_of(value) if name == "call" else value

    @property
    def seconds(self) -> float:
        return math.inf if self.ttl is None else self.ttl


FROM_VAULT = ("dynamic", "static")
"""Kinds of sources that need a login to Vault."""


def name_of(value: object) -> str:
    """A function or an object of the user's, for messages and status."""
    return str(getattr(value, "__qualname__", type(value).__qualname__))


def table(value: object) -> object:
    """The forms that a source may have in settings, as a table where it is one: a bare word is its kind."""
    if isinstance(value, str):
        return {"kind": value}
    if isinstance(value, Mapping):
        return {"kind": "dynamic", **value}
    if isinstance(value, type) and hasattr(value, "issue"):
        raise mistake(f"is the class {value.__name__}: give an object of it")
    if isinstance(value, SourceModel | CredentialSource) or hasattr(value, "issue") or not callable(value):
        return value
    return {"kind": "callable", "call": value}


def _foreign(value: object, handler: Callable[[object], object]) -> object:
    """An object of the user's passes as it is."""
    if isinstance(value, CredentialSource):
        for name in ("issue", "renew", "revoke", "lookup", "watch"):
            if plain(getattr(value, name, None)):
                raise mistake(f"is a {name_of(value)} whose {name}() is no coroutine function: write it with async def")
        return value
    if hasattr(value, "issue") and not isinstance(value, type | SourceModel):
        raise mistake(f"is a {name_of(value)} without renew() or revoke(): derive its class from CredentialSource")
    return handler(value)


Kinds: TypeAlias = Annotated[DynamicSource | StaticSource | FileSource | CallableSource, Field(discriminator="kind")]
KINDS: dict[str, type[SourceModel]] = {method_of(model): model for model in models_in(Kinds) if issubclass(model, SourceModel)}

if TYPE_CHECKING:
    # What may be given; what is kept is one of the first five.
    SourceSettings: TypeAlias = (
        DynamicSource
        | StaticSource
        | FileSource
        | CallableSource
        | CredentialSource
        | Literal["dynamic", "static"]
        | Mapping[str, Any]
        | PasswordCall
    )
else:
    SourceSettings = Annotated[Kinds, WrapValidator(_foreign), BeforeValidator(table)]
