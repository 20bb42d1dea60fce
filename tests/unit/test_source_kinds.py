"""The sources one by one: files as agents and Kubernetes write them, functions that give tokens."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from vault_pg.errors import NotRunning, SourceError
from vault_pg.lease import Credential, Ending, Grant
from vault_pg.settings import CallableSource, DatabaseSettings, FileSource
from vault_pg.sources import source_for
from vault_pg.sources.file import CredentialFile
from vault_pg.sources.function import PasswordFunction

pytestmark = pytest.mark.looptime


def rendered(username: str, password: str) -> str:
    return json.dumps({"username": username, "password": password, "ttl": 5})


async def login_of(source: CredentialFile | PasswordFunction) -> tuple[str, str]:
    grant = await source.issue(timeout=10)
    assert (grant.ending, grant.lease_id, grant.renewable) == (Ending.PASSWORD, "", False)
    return grant.credential.username, grant.credential.password.get_secret_value()


def kubernetes(where: Path, version: int, username: str, password: str) -> None:
    """As the kubelet does it: a new directory, and one link to it exchanged."""
    data = where / f"..{version}"
    data.mkdir(parents=True)
    (data / "username").write_text(username)
    (data / "password").write_text(password)
    (where / "..new").symlink_to(data.name)
    (where / "..new").replace(where / "..data")
    for name in ("username", "password"):
        if not (where / name).is_symlink():
            (where / name).symlink_to(f"..data/{name}")


async def test_the_json_of_an_agents_template(tmp_path: Path) -> None:
    file = tmp_path / "db.json"
    file.write_text(rendered("app", "pw"))
    assert await login_of(CredentialFile(FileSource(path=file))) == ("app", "pw")
    file.write_text(json.dumps({"request_id": "x", "data": {"username": "app", "password": "other"}}))
    assert await login_of(CredentialFile(FileSource(path=file))) == ("app", "other")


async def test_a_secret_as_kubernetes_mounts_it(tmp_path: Path) -> None:
    kubernetes(tmp_path, 1, "app", "one")
    source = CredentialFile(FileSource(path=tmp_path))
    assert await login_of(source) == ("app", "one")
    kubernetes(tmp_path, 2, "app2", "two")
    await source.watch()
    assert await login_of(source) == ("app2", "two")


async def test_two_files_and_the_line_break_at_their_end(tmp_path: Path) -> None:
    (tmp_path / "u").write_text("app\n")
    (tmp_path / "p").write_text("p w\r\n")
    pair = FileSource(username_file=tmp_path / "u", password_file=tmp_path / "p")
    assert await login_of(CredentialFile(pair)) == ("app", "p w")
    assert await login_of(CredentialFile(FileSource(username="me", password_file=tmp_path / "p"))) == ("me", "p w")


@pytest.mark.parametrize("half", ["", "{", '{"username": "app"', '{"username": "app"}', '{"username": "", "password": "x"}'])
async def test_a_half_written_file_is_read_again(tmp_path: Path, half: str) -> None:
    file = tmp_path / "db.json"
    file.write_text(half)
    asyncio.get_running_loop().call_later(0.5, file.write_text, rendered("app", "pw"))
    assert await login_of(CredentialFile(FileSource(path=file))) == ("app", "pw")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "does not exist: does the agent run"),
        (b"", "no JSON object"),
        (b'{"username": "app", "password": "toosec', "half written"),
        (b"\xff\xfe", "no text in UTF-8"),
    ],
)
async def test_a_file_that_stays_unreadable_says_so_and_shows_nothing_of_it(
    tmp_path: Path, content: bytes | None, problem: str
) -> None:
    file = tmp_path / "db.json"
    if content is not None:
        file.write_bytes(content)
    before = asyncio.get_running_loop().time()
    with pytest.raises(SourceError, match=problem) as caught:
        await CredentialFile(FileSource(path=file)).issue(timeout=10)
    assert "toosec" not in str(caught.value)
    assert caught.value.__context__ is None
    assert asyncio.get_running_loop().time() - before < 2


async def test_a_password_file_of_two_lines_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p").write_text("one\ntwo\n")
    with pytest.raises(SourceError, match="more than one line"):
        await CredentialFile(FileSource(username="a", password_file=tmp_path / "p")).issue(timeout=10)


async def test_a_file_is_watched_at_its_interval_and_only_news_are_told(tmp_path: Path) -> None:
    file = tmp_path / "db.json"
    file.write_text(rendered("app", "one"))
    source = CredentialFile(FileSource(path=file, interval=5))
    await source.issue(timeout=10)
    watching = asyncio.create_task(source.watch())
    await asyncio.sleep(60)
    file.write_text(rendered("app", "one"))  # touched, and the same
    await asyncio.sleep(60)
    assert not watching.done()
    file.write_text(rendered("app", "two"))
    await asyncio.sleep(5.1)
    assert watching.done()


async def test_a_file_that_goes_away_and_comes_back_is_told_once_each(tmp_path: Path) -> None:
    file = tmp_path / "db.json"
    file.write_text(rendered("app", "one"))
    source = CredentialFile(FileSource(path=file))
    await source.issue(timeout=10)
    file.unlink()
    await source.watch()
    watching = asyncio.create_task(source.watch())
    await asyncio.sleep(600)
    assert not watching.done()
    file.write_text(rendered("app", "one"))
    await asyncio.sleep(5.1)
    assert watching.done()


def coroutine(answer: Any) -> Callable[[], Any]:
    async def call() -> Any:
        await asyncio.sleep(0.1)
        return answer

    return call


@pytest.mark.parametrize(
    ("answer", "ttl"), [("pw", 900.0), (SecretStr("pw"), 900.0), (("pw", 60), 60.0), ((SecretStr("pw"), 2.5), 2.5)]
)
async def test_a_function_gives_a_password_alone_or_with_its_seconds(answer: Any, ttl: float) -> None:
    settings = CallableSource(call=coroutine(answer), username="app", ttl=900)
    source = PasswordFunction(settings)
    assert await login_of(source) == ("app", "pw")
    assert (await source.issue(timeout=10)).ttl == ttl


async def test_a_password_without_seconds_has_no_end_that_anyone_knows() -> None:
    grant = await PasswordFunction(CallableSource(call=coroutine("pw"), username="app")).issue(timeout=10)
    assert grant.ttl == math.inf


async def test_a_function_may_return_a_grant() -> None:
    grant = Grant(Credential("theirs", SecretStr("pw")), 30.0)
    assert await PasswordFunction(CallableSource(call=coroutine(grant))).issue(timeout=10) is grant


@pytest.mark.parametrize(
    ("answer", "username", "problem"),
    [
        ("pw", None, "nobody says whose"),
        (None, "app", "returned a NoneType"),
        ("", "app", "an empty password"),
        (("pw", "60"), "app", "returned a tuple"),
        (("pw", True), "app", "returned a tuple"),
        (("pw", 0), "app", "returned a password with 0 seconds to live"),
        (("pw", math.nan), "app", "returned a password with nan seconds to live"),
    ],
)
async def test_what_else_a_function_returns_is_told(answer: Any, username: str | None, problem: str) -> None:
    with pytest.raises(SourceError, match=problem):
        await PasswordFunction(CallableSource(call=coroutine(answer), username=username)).issue(timeout=10)


def test_a_role_of_vault_needs_a_session() -> None:
    with pytest.raises(NotRunning, match="comes from Vault"):
        source_for(DatabaseSettings(role="app"), None)
