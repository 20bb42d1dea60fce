"""libpq's connection strings: ours taken out, Vault's refused, the rest left as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row

from vault_pg.errors import SettingsError
from vault_pg.settings import DatabaseSettings
from vault_pg.settings.conninfo import absorb, masked, problem

SECRET = "much-too-secret"


@pytest.mark.parametrize(
    ("conninfo", "rest"),
    [
        (
            "postgresql://db.internal/app?sslmode=verify-full&vault_role=app&vault_mount=team/db",
            "postgresql://db.internal/app?sslmode=verify-full",
        ),
        ("postgres:///?vault_mount=team%2Fdb&vault_role=app", "postgres:///"),
        ("postgresql://h1:5432,h2/db?vault_role=app&vault_mount=team/db", "postgresql://h1:5432,h2/db"),
        ("postgresql://h1,[::1]:5433/db?vault_role=app&vault_mount=team/db&a=1+2", "postgresql://h1,[::1]:5433/db?a=1+2"),
        ("host=db vault_role=app dbname='my db' vault_mount=team/db", "host=db dbname='my db'"),
        ("vault_role = 'app' vault_mount=team/db host = db", "host = db"),
        (r"options='-c x=\'vault_role=b\'' vault_role=app vault_mount=team/db", r"options='-c x=\'vault_role=b\''"),
    ],
)
def test_role_and_mount_in_a_conninfo(conninfo: str, rest: str) -> None:
    assert absorb({"conninfo": conninfo}) == {"conninfo": rest, "role": "app", "mount": "team/db"}


def test_database_settings_take_role_and_mount_out_of_the_conninfo() -> None:
    settings = DatabaseSettings(conninfo="postgresql://h1:5432,h2/db?vault_role=app&sslmode=require")
    assert (settings.role, settings.mount) == ("app", "database")
    assert conninfo_to_dict(settings.conninfo) == {"host": "h1,h2", "port": "5432,", "dbname": "db", "sslmode": "require"}


@pytest.mark.parametrize(
    "conninfo",
    [
        "",
        "host=db  dbname=app",
        "host='a b' options='-c vault_role=x'",
        "postgresql://h1:1,h2:2/db?options=-c%20x%3D1&sslmode=require",
    ],
)
def test_conninfo_without_ours_is_left_as_it_is(conninfo: str) -> None:
    assert DatabaseSettings(role="app", conninfo=conninfo).conninfo == conninfo


@pytest.mark.parametrize(
    ("table", "name"),
    [
        ({"role": "a", "conninfo": "host=x vault_role=b"}, "vault_role"),
        ({"role": "a", "conninfo": "postgresql://x/?vault_role=b"}, "vault_role"),
        ({"role": "a", "mount": "m", "conninfo": "host=x vault_mount=n"}, "vault_mount"),
        ({"role": "a", "conninfo": "vault_role=a vault_role=b"}, "vault_role"),
    ],
)
def test_contradiction_in_one_place(table: dict[str, str], name: str) -> None:
    with pytest.raises(SettingsError) as caught:
        DatabaseSettings.model_validate(table)
    (mistake,) = caught.value.mistakes
    assert mistake.startswith(f"argument conninfo of DatabaseSettings says {name}, and another {name[6:]} is given beside it")


def test_saying_the_same_twice_is_no_contradiction() -> None:
    assert DatabaseSettings(role="app", conninfo="host=x vault_role=app").conninfo == "host=x"


@pytest.mark.parametrize(
    ("conninfo", "what"),
    [
        (f"host=db user=app password={SECRET}", "holds a user and a password"),
        (f"postgresql://app:{SECRET}@db/app", "holds a user and a password"),
        ("postgresql://app@db/app", "holds a user:"),
        (f"postgresql://db/app?password={SECRET}", "holds a password"),
        ("host=db port=54x32", "has a port that is no number"),
        ("postgresql://db:70000/app", "has a port that is no number"),
        ("host=db sslmod=require", "has a parameter sslmod, which libpq does not know: did you mean sslmode?"),
        ("postgresql://db/app?vault_rol=x", "has a parameter vault_rol, which libpq does not know: did you mean vault_role?"),
        ("host=db zzzzzzzz=1", "has a parameter zzzzzzzz, which libpq does not know: take it out, or correct its name"),
        ("host=db sslmode=verify-ful", 'is refused by libpq, invalid sslmode value: "verify-ful": correct it'),
        ("service=no_such_service", 'is refused by libpq, definition of service "no_such_service" not found: correct it'),
        (f"host=db sslmode=x sslpassword={SECRET}", "has a value that libpq refuses: correct it"),
        ("host='db", "is malformed"),
        ("mysql://db/app", "is malformed"),
        ("just-a-host", "is malformed"),
        (f"postgresql://[::1/app?sslmode={SECRET}", "is malformed"),
        (f"host=db password=a {SECRET}", "is malformed"),
        (f"host=db password=a {SECRET}=x", "is malformed"),
        ("host=db password=a hunter2=x", "is malformed"),
        ("postgresql://db/app?hunter2=x@y", "is malformed"),
        (f"postgresql://app:a?{SECRET}=b@db/app", "holds a user and a password"),
        (f"postgresql://db/%zz{SECRET}", "is malformed"),
    ],
)
def test_conninfo_that_cannot_be_used(conninfo: str, what: str) -> None:
    told = problem(conninfo)
    assert told is not None
    assert told.startswith(what)
    assert SECRET not in told
    with pytest.raises(SettingsError) as caught:
        DatabaseSettings(role="app", conninfo=conninfo)
    assert caught.value.mistakes == (f"argument conninfo of DatabaseSettings {told}",)
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("kwargs", "what"),
    [
        ({"autocommitt": True}, "holds autocommitt, which neither psycopg's connect nor libpq knows: did you mean autocommit?"),
        ({"zzzzzzzz": 1}, "holds zzzzzzzz, which neither psycopg's connect nor libpq knows: take it out, or correct its name"),
        ({"sslmode": "verify-ful"}, 'is refused by libpq, invalid sslmode value: "verify-ful": correct it'),
    ],
)
def test_arguments_of_connect_that_cannot_be_used(kwargs: dict[str, Any], what: str) -> None:
    with pytest.raises(SettingsError) as caught:
        DatabaseSettings(role="app", conninfo="host=db", kwargs=kwargs)
    assert caught.value.mistakes == (f"argument kwargs of DatabaseSettings {what}",)


def test_arguments_that_connect_takes() -> None:
    class Tenant(AsyncConnection[Any]):
        @classmethod
        async def connect(cls, *args: Any, **kwargs: Any) -> Tenant:
            return await super().connect(*args, application_name=kwargs.pop("tenant"), **kwargs)

    DatabaseSettings(
        role="app", kwargs={"autocommit": True, "row_factory": dict_row, "application_name": "x", "connect_timeout": 5}
    )
    DatabaseSettings(role="app", kwargs={"tenant": "x"}, connection_class=Tenant)


def test_a_service_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "services").write_text("[app]\nhost=db\nhostaddr=127.0.0.1\nport=1\n")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    assert DatabaseSettings(role="app", conninfo="service=app").conninfo == "service=app"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("PGSERVICE", "no_such_service", 'definition of service "no_such_service" not found'),
        ("PGSSLMODE", "verify-ful", 'invalid sslmode value: "verify-ful"'),
    ],
)
def test_a_variable_of_libpq_is_blamed_for_its_own_value(
    name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        DatabaseSettings(role="app", conninfo="host=db dbname=app")
    assert caught.value.mistakes == (
        f"argument conninfo of DatabaseSettings is completed by environment variable {name}, which libpq refuses, {said}: correct that",
    )


@pytest.mark.parametrize(
    ("conninfo", "shown"),
    [
        (f"host=db sslpassword='{SECRET} x' dbname=a", "host=db sslpassword=*** dbname=a"),
        (f"postgresql://db/a?sslpassword={SECRET}&sslmode=require", "postgresql://db/a?sslpassword=***&sslmode=require"),
        (f"postgresql://a:{SECRET}@db/a", "***"),
        (f"postgresql://a:a?{SECRET}@db/a", "***"),
        (f"password={SECRET} '", "***"),
    ],
)
def test_secrets_are_masked(conninfo: str, shown: str) -> None:
    assert masked(conninfo) == shown


VALUES = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=12)


@given(dbname=VALUES, options=VALUES, role=st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True))
def test_whatever_libpq_quotes_comes_through(dbname: str, options: str, role: str) -> None:
    rest = make_conninfo(dbname=dbname, options=options)
    for conninfo in (f"{rest} vault_role={role}", f"vault_role={role} {rest}"):
        taken = absorb({"conninfo": conninfo})
        assert taken["role"] == role
        assert conninfo_to_dict(taken["conninfo"]) == conninfo_to_dict(rest)
