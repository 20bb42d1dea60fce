"""What a way to a token is, and what most of them have in common."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeAlias

from pydantic import SecretStr

from vault_pg.errors import LoginFailed, MountNotFound, PermissionDenied, TokenInvalid, VaultRefused
from vault_pg.vault.endpoints import Client, Grant, granted

Supply: TypeAlias = Literal["given", "watched", "proxied", "repeatable"]
"""Where the next token comes from: nowhere; a file that somebody rewrites; an agent, which puts its token on each request; a login."""

Work: TypeAlias = Callable[[Client], Grant]


class Login(Protocol):
    """One way to get a token."""

    method: ClassVar[str]
    supply: ClassVar[Supply]

    def login(self, client: Client) -> Grant:
        """Blocks for a few requests. Raises LoginFailed, TokenInvalid, VaultUnavailable."""
        ...

    @property
    def repeats(self) -> bool:
        """What `prepare` returns gives another token each time: of two at once one may be undone, and the other kept."""
        ...

    async def prepare(self) -> Work:
        """What has to happen on the event loop before; returns the rest, which blocks."""
        ...


class Blocking:
    """A login that needs the event loop for nothing."""

    @property
    def repeats(self) -> bool:
        return True

    def login(self, client: Client) -> Grant:
        raise NotImplementedError

    async def prepare(self) -> Work:
        return self.login


def ask(client: Client, title: str, mount: str, credentials: str, login: Callable[[], Any]) -> Grant:
    """The token that one of hvac's logins yields. Raises LoginFailed, which names where the method should be and what to look at."""
    client.token = ""
    refused: str
    try:
        answer = login()
    except (PermissionDenied, TokenInvalid, MountNotFound):
        refused = (
            f"no {title} method answers at auth/{mount}, or it does not allow this host or the {credentials}: "
            "look at `vault auth list`, the role and VAULT_NAMESPACE"
        )
    except VaultRefused as error:
        refused = f"{error}; look at the {credentials} (expired? used up?)"
    else:
        return granted(client, answer, f"auth/{mount}/login")
    raise LoginFailed(f"the {title} login failed: {refused}")


def content(file: Path, title: str, what: str) -> str:
    """What stands in the file now, without the spaces around it. Raises LoginFailed."""
    try:
        text = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
    else:
        if text:
            return text
        why = "it is empty"
    raise LoginFailed(f"the {title} login failed: cannot use the {what} file {file}: {why}")


def either(value: SecretStr | None, file: Path | None, title: str, what: str) -> str | None:
    """The value, or else what stands in the file now, or None where there is neither."""
    if file is not None:
        return content(file, title, what)
    return None if value is None else value.get_secret_value()
