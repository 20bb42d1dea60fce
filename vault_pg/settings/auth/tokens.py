"""Tokens that somebody else got: given, in a file, or added by an agent."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from vault_pg.settings.auth.base import METHOD_FIELD, METHOD_VARIABLE, AuthMethod
from vault_pg.settings.tree import Variable
from vault_pg.settings.values import ReadableFile, Secret, bare, mistake


class TokenAuth(AuthMethod):
    """A token that someone else got. It is renewed while it can be, and never revoked."""

    alternatives: ClassVar[frozenset[str]] = frozenset({"token", "token_file"})

    method: Annotated[Literal["token"], METHOD_VARIABLE, METHOD_FIELD] = "token"
    token: Annotated[Secret | None, Variable("VAULT_TOKEN"), Field(description="The token")] = None
    token_file: Annotated[
        ReadableFile | None,
        Variable("VAULT_PG_TOKEN_FILE"),
        Field(description="A file with the token, such as an agent's sink, looked at all the time; without both ~/.vault-token"),
    ] = None

    @field_validator("token_file")
    @classmethod
    def _bare_token(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is None:
            return None
        if info.data.get("token") is not None:
            raise mistake("is given besides {other}: give only one of them", other="token")
        try:
            text = value.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            raise mistake(f"names {value}, which holds no token: give a file that holds one and nothing else") from None
        if text and not bare(text):  # an empty one may be filled later
            raise mistake(f"names {value}, which holds a space, a line break or another character that no token has")
        del text
        return value


class AgentAuth(AuthMethod):
    """A Vault Agent or Proxy at the address adds its own token to each request (`use_auto_auth_token`), and keeps it alive."""

    method: Annotated[Literal["agent"], METHOD_VARIABLE, METHOD_FIELD] = "agent"
