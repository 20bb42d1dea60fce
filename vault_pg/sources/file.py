"""A file that somebody else writes and rewrites: Vault Agent, a CSI driver, a Kubernetes secret."""

from __future__ import annotations

import asyncio
from pathlib import Path

from pydantic import BaseModel, Field, SecretStr, ValidationError
from tenacity import AsyncRetrying, retry_if_exception_type, wait_fixed

from vault_pg.errors import SourceError
from vault_pg.lease import Credential, Ending, Grant
from vault_pg.settings import FileSource
from vault_pg.settings.values import trouble
from vault_pg.source import CredentialSource

TORN = 1.0
"""Seconds that a file may be empty or half written, or missing between two links, before that is called unreadable."""

AGAIN = 0.05
"""Seconds between two looks at such a file."""


class _Login(BaseModel):
    username: str = Field(min_length=1)
    password: SecretStr = Field(min_length=1)


class _Answer(BaseModel):
    """Vault's whole answer, as `vault read -format=json` writes it."""

    data: _Login


class CredentialFile(CredentialSource):
    """What stands in the file, or in the two files, now. Its sessions outlive it; when it ends nobody says but PostgreSQL.

    Files are read on the event loop: they are small and local, and a thread would cost more.
    """

    def __init__(self, settings: FileSource) -> None:
        self._settings = settings
        self._issued: Credential | None = None
        self._was_readable = True

    async def issue(self, *, timeout: float) -> Grant:
        """Raises SourceError where it can't be read for a second or so."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + min(TORN, timeout / 2)
        credential: Credential = await AsyncRetrying(
            retry=retry_if_exception_type(SourceError),
            stop=lambda _: loop.time() >= deadline,
            wait=wait_fixed(AGAIN),
            sleep=asyncio.sleep,
            reraise=True,
        )(self._read_whole)
        self._issued = credential
        return Grant(credential, ending=Ending.PASSWORD)

    async def watch(self) -> None:
        """Return when it holds another credential than the one issued, when it can be read no more, and when it can again."""
        while True:
            await asyncio.sleep(self._settings.interval)
            try:
                found = self._read()
            except SourceError:
                readable, news = False, False
            else:
                readable, news = True, found != self._issued
            if news or readable is not self._was_readable:
                self._was_readable = readable
                return

    async def _read_whole(self) -> Credential:
        """Read twice: Kubernetes exchanges the whole directory by one link, and that may happen between two files of it."""
        first, second = self._read(), self._read()
        if first != second:
            raise SourceError(f"{self._place} is being rewritten")
        return second

    @property
    def _place(self) -> str:
        return f"the credential file {self._settings.path or self._settings.password_file}"

    def _read(self) -> Credential:
        path = self._settings.path
        if path is not None and not path.is_dir():
            return self._parsed(_text(path))
        name, password = (
            (path / "username", path / "password") if path else (self._settings.username_file, self._settings.password_file)
        )
        user = self._settings.username if name is None else _line(name)
        if user is None or password is None:
            raise SourceError(f"{self._place} has no user name: give username or username_file")
        return Credential(user, SecretStr(_line(password)))

    def _parsed(self, text: str) -> Credential:
        for model in (_Login, _Answer):
            try:
                found = model.model_validate_json(text)
            except ValidationError:
                continue  # not raised in here: pydantic's text quotes the file, secrets and all
            login = found if isinstance(found, _Login) else found.data
            return Credential(login.username, login.password)
        raise SourceError(f"{self._place} is no JSON object with username and password, or is only half written")


def _line(path: Path) -> str:
    """The one line of a file. Its end is not part of it."""
    line = _text(path).rstrip("\r\n")
    if not line:
        raise SourceError(f"the credential file {path} is empty")
    if not line.isprintable():
        raise SourceError(f"the credential file {path} holds more than one line, or what is no text: write the bare value")
    return line


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        problem = trouble(error)
    except UnicodeDecodeError:
        problem = "is no text in UTF-8"
    raise SourceError(f"the credential file {path} {problem}: does the agent run that writes it, and is the path right?")
