"""Where user name and password come from, as settings say it: words, tables, variables, objects, and what is wrong with them."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from vault_pg.errors import SettingsError
from vault_pg.lease import Credential, Grant
from vault_pg.settings import CallableSource, DatabaseSettings, DynamicSource, FileSource, Settings, StaticSource
from vault_pg.source import CredentialSource

Write = Callable[[str], None]


class Own(CredentialSource):
    async def issue(self, *, timeout: float) -> Grant:
        return Grant(Credential("own", SecretStr("s")))


def token() -> str:
    return "s"


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("VAULT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def toml(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Write:
    def write(text: str) -> None:
        (tmp_path / "app.toml").write_text(text)
        monkeypatch.setenv("VAULT_PG_CONFIG", str(tmp_path / "app.toml"))

    return write


def source_of(settings: Settings, name: str = "default") -> object:
    return settings.databases[name].source


def mistakes(**data: Any) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        Settings(**data)
    return caught.value.mistakes


def test_without_a_word_it_is_a_dynamic_role() -> None:
    assert DatabaseSettings(role="app").source == DynamicSource()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("static", StaticSource()),
        ({"kind": "static"}, StaticSource()),
        (StaticSource(), StaticSource()),
        ({"kind": "file", "path": "/run/db.json"}, FileSource(path=Path("/run/db.json"))),
        (token, CallableSource(call=token)),
        (
            {"kind": "callable", "call": token, "username": "app", "ttl": "15m"},
            CallableSource(call=token, username="app", ttl=900),
        ),
    ],
)
def test_the_forms_of_a_source(given: Any, expected: object) -> None:
    role: dict[str, Any] = {"role": "app"} if expected == StaticSource() else {}
    assert DatabaseSettings(**role, source=given).source == expected
    data: dict[str, Any] = {"databases": {"default": {**role, "source": given}}, "vault": {"auth": {"token": "t"}}}
    assert source_of(Settings(**data)) == expected


def test_an_object_of_the_users_stays_that_object() -> None:
    own = Own()
    assert DatabaseSettings(source=own).source is own
    settings = Settings(databases={"default": DatabaseSettings(source=own)})
    assert source_of(settings) is own
    assert settings.databases["default"].model_dump(mode="json")["source"] == "Own"


def test_neither_repr_nor_json_shows_what_a_function_was_given() -> None:
    settings = DatabaseSettings(source=CallableSource(call=functools.partial(str, "too-secret"), username="app"))
    assert "too-secret" not in repr(settings) + settings.model_dump_json()


def test_the_environment_chooses_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAULT_PG_SOURCE", "file")
    monkeypatch.setenv("VAULT_PG_SOURCE_USERNAME", "app")
    monkeypatch.setenv("VAULT_PG_SOURCE_PASSWORD_FILE", "/run/secrets/password")
    monkeypatch.setenv("VAULT_PG_SOURCE_INTERVAL", "30s")
    settings = Settings()  # no role, no token: no Vault is asked
    assert source_of(settings) == FileSource(username="app", password_file=Path("/run/secrets/password"), interval=30)
    assert not settings.databases["default"].from_vault


def test_the_environment_chooses_a_static_role(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAULT_PG_SOURCE", "static")
    assert [each.split(":")[0] for each in mistakes()] == ["no Vault token", "no database role"]
    monkeypatch.setenv("VAULT_PG_ROLE", "app")
    monkeypatch.setenv("VAULT_TOKEN", "t")
    assert source_of(Settings()) == StaticSource()


def test_each_database_of_a_toml_file_has_its_own(toml: Write) -> None:
    toml("""
        [databases.default]
        source = "static"
        role = "app"
        [databases.reports]
        source = { kind = "file", path = "/run/reports" }
        [vault.auth]
        token = "t"
    """)
    settings = Settings()
    assert source_of(settings) == StaticSource()
    assert source_of(settings, "reports") == FileSource(path=Path("/run/reports"))


def test_a_stronger_layer_brings_a_source_of_its_own_or_completes_the_one_below(
    toml: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    toml('[databases.default]\nsource = { kind = "file", path = "/run/db.json" }')
    monkeypatch.setenv("VAULT_PG_SOURCE_INTERVAL", "60")
    assert source_of(Settings()) == FileSource(path=Path("/run/db.json"), interval=60)
    monkeypatch.setenv("VAULT_PG_SOURCE", "static")
    monkeypatch.setenv("VAULT_PG_ROLE", "app")
    monkeypatch.setenv("VAULT_TOKEN", "t")
    assert source_of(Settings()) == StaticSource()
    own = Own()
    assert source_of(Settings(databases={"default": DatabaseSettings(source=own)})) is own


def test_a_process_whose_databases_all_use_no_vault_needs_no_token_and_no_role() -> None:
    file = DatabaseSettings(source={"kind": "file", "path": "/x"})
    Settings(databases={"one": file, "two": DatabaseSettings(source=Own())})
    with pytest.raises(SettingsError, match="no Vault token"):
        Settings(databases={"one": file, "two": DatabaseSettings(role="app")})


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("fil", "is 'fil', which is no kind of source: did you mean file?"),
        ({"kind": "file", "path": "/x", "interval": True}, "interval is not a number of seconds"),
        ({"path": "/x"}, "the kind of source is dynamic, and path belongs to file: set kind to that"),
        (
            {"kind": "file"},
            (
                "no file of the credential: set VAULT_PG_SOURCE_PATH or VAULT_PG_SOURCE_PASSWORD_FILE, or give "
                "databases.default.source.path or databases.default.source.password_file as an argument or in the TOML file"
            ),
        ),
        (
            {"kind": "file", "password_file": "/p"},
            "is given without a user name: set VAULT_PG_SOURCE_USERNAME or VAULT_PG_SOURCE_USERNAME_FILE, or give ",
        ),
        ({"kind": "file", "path": "/x", "password_file": "/p"}, "is given besides argument databases.default.source.path"),
        (
            {"kind": "file", "username": "a", "username_file": "/u", "password_file": "/p"},
            "is given besides argument databases.default.source.username",
        ),
        (
            {"kind": "callable"},
            (
                "no function of the source: give CallableSource(call=…) in Python for the argument databases.default.source, "
                "because neither the environment nor a TOML file can hold a function"
            ),
        ),
        (42, "databases.default.source is not a table of settings"),
    ],
)
def test_mistakes_in_a_source_are_told(source: Any, problem: str) -> None:
    role = {} if isinstance(source, dict) and "kind" in source else {"role": "app"}
    said = mistakes(databases={"default": {**role, "source": source}}, vault={"auth": {"token": "t"}})
    assert len(said) == 1
    assert problem in said[0]


def test_what_another_database_lacks_has_no_variable() -> None:
    (said,) = mistakes(databases={"reports": {"source": {"kind": "file"}}})
    assert said == (
        "no file of the credential for 'reports': give databases.reports.source.path or databases.reports.source.password_file "
        "as an argument or in the TOML file"
    )


def test_a_function_is_asked_for_where_it_can_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAULT_PG_SOURCE", "callable")
    (said,) = mistakes()
    assert "give CallableSource(call=…) in Python for the argument databases.default.source" in said


def test_a_source_of_ones_own_that_cannot_work_is_refused() -> None:
    class Synchronous(CredentialSource):
        def issue(self, *, timeout: float) -> Grant:  # type: ignore[override] # the mistake: no async
            return Grant(Credential("own", SecretStr("s")))

    class Half:
        async def issue(self, *, timeout: float) -> Grant:
            return Grant(Credential("own", SecretStr("s")))

    for source, said in (
        (Synchronous(), "Synchronous whose issue() is no coroutine function: write it with async def"),
        (Half(), "Half without renew() or revoke(): derive its class from CredentialSource"),
        (Own, "is the class Own: give an object of it"),
    ):
        given: Any = source
        with pytest.raises(SettingsError, match="argument source of DatabaseSettings is ") as caught:
            DatabaseSettings(source=given)
        assert said in str(caught.value)


def test_a_role_beside_a_source_that_has_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    file = {"kind": "file", "path": "/x"}
    with pytest.raises(SettingsError, match="role of DatabaseSettings is given, but the source of the credential is file"):
        DatabaseSettings.model_validate({"role": "app", "source": file})
    with pytest.raises(SettingsError, match="the source of the credential is Own"):
        DatabaseSettings(role="app", source=Own())
    monkeypatch.setenv("VAULT_PG_ROLE", "app")
    monkeypatch.setenv("VAULT_PG_SOURCE", "file")
    monkeypatch.setenv("VAULT_PG_SOURCE_PATH", "/x")
    (said,) = mistakes()
    assert said.startswith("environment variable VAULT_PG_ROLE is given, but the source of the credential is file")


def test_a_source_without_roles_stands_above_the_role_of_a_weaker_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAULT_PG_ROLE", "app")
    monkeypatch.setenv("VAULT_PG_MOUNT", "team")
    own: dict[str, Any] = {"databases": {"default": {"source": Own()}}}
    assert Settings(**own).databases["default"].role is None
    static: dict[str, Any] = {"databases": {"default": {"source": "static"}}, "vault": {"auth": {"token": "t"}}}
    assert Settings(**static).databases["default"].role == "app"


def test_the_supplier_of_user_and_password_is_named_as_what_it_is() -> None:
    with pytest.raises(SettingsError, match="take that out, its source supplies both user and password"):
        DatabaseSettings(source=FileSource(path=Path("/x")), conninfo="host=db user=app")
    with pytest.raises(SettingsError, match="take that out, its source supplies both user and password"):
        DatabaseSettings(source=Own(), kwargs={"user": "app"})
