"""The settings classes built alone: plain frozen models that read no environment."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import psycopg
import psycopg_pool
import pytest
from pydantic import SecretStr, ValidationError

from tests.pem import PEM
from vault_pg.errors import SettingsError
from vault_pg.lease import Credential
from vault_pg.pool import LeasedPool
from vault_pg.pool.connector import Connector
from vault_pg.settings import AppRoleAuth, CallableSource, CustomAuth, DatabaseSettings, TokenAuth, VaultSettings
from vault_pg.settings.model import Model

METHOD_NAMES = "token, agent, approle, kubernetes, jwt, userpass, ldap, cert, aws, azure, gcp, custom"
SECRET = "hvs.CAESIJmuchtoosecrettoshow"


def mistakes(model: type[Model], **data: Any) -> tuple[str, ...]:
    """What `model(**data)` says is wrong; nothing of it may hang on to pydantic's error, which has the input."""
    with pytest.raises(SettingsError) as caught:
        model(**data)
    error = caught.value
    assert error.__cause__ is None
    assert error.__context__ is None
    assert SECRET not in f"{error!s} {error!r}"
    assert str(error) == "; ".join(error.mistakes)
    return error.mistakes


def database(**data: Any) -> tuple[str, ...]:
    return mistakes(DatabaseSettings, role="app", **data)


def test_defaults_of_a_database() -> None:
    settings = DatabaseSettings(role="app")
    assert settings.model_dump(exclude={"overlap"}) == {
        "source": {"kind": "dynamic"},
        "role": "app",
        "mount": "database",
        "conninfo": "",
        "min_size": 4,
        "max_size": 10,
        "timeout": 30.0,
        "max_waiting": 0,
        "max_lifetime": 3600.0,
        "max_idle": 600.0,
        "max_age": None,
        "check_interval": None,
        "increment": None,
        "drain_timeout": 60.0,
        "build_timeout": 30.0,
        "close_returns": False,
        "reconnect_timeout": 300.0,
        "num_workers": 3,
        "kwargs": {},
        "connection_class": None,
        "configure": None,
        "check": None,
        "reset": None,
        "reconnect_failed": None,
        "probe": None,
    }


def test_defaults_of_vault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAULT_ADDR", "http://elsewhere:1")
    monkeypatch.setenv("VAULT_TOKEN", SECRET)
    settings = VaultSettings()
    assert settings.address == "https://127.0.0.1:8200"
    assert settings.auth == TokenAuth(token=None)
    assert (settings.namespace, settings.skip_verify, settings.timeout) == (None, False, 10.0)


@pytest.mark.parametrize(("given", "overlap"), [({}, 4), ({"min_size": 0}, 1), ({"min_size": 7}, 7), ({"overlap": 2}, 2)])
def test_overlap_is_min_size_unless_given(given: dict[str, int], overlap: int) -> None:
    assert DatabaseSettings.model_validate({"role": "app", **given}).overlap == overlap


def test_models_are_frozen() -> None:
    for model, name in ((DatabaseSettings(role="app"), "role"), (VaultSettings(), "address"), (TokenAuth(), "token")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(model, name, "other")


def test_every_mistake_of_a_model_is_told_at_once() -> None:
    assert mistakes(DatabaseSettings, min_size=-1, max_size="many", max_waiting=1.5, timeout="soon", connection_clas=3) == (
        "no database role: give role as an argument of DatabaseSettings",
        "argument min_size of DatabaseSettings is -1: give 0 or more",
        "argument max_size of DatabaseSettings is not a whole number: give one such as 4",
        "argument timeout of DatabaseSettings is not a number of seconds: give one such as 30 or 30s",
        "argument max_waiting of DatabaseSettings is not a whole number: give one such as 4",
        "argument connection_clas of DatabaseSettings is no setting: did you mean connection_class?",
    )


def test_max_size_below_min_size() -> None:
    (mistake,) = database(min_size=5, max_size=3)
    assert mistake.startswith("argument max_size of DatabaseSettings is 3, less than argument min_size of DatabaseSettings, 5: ")
    assert database(min_size=11) == (
        "max_size (default) is 10, less than argument min_size of DatabaseSettings, 11: raise max_size or lower min_size",
    )
    assert DatabaseSettings(role="app", min_size=3, max_size=3).max_size == 3


@pytest.mark.parametrize(("size", "least"), [(1, 1), ("2", 2), (3.0, 3), (4, 4), (5, 4)])
def test_a_min_size_that_nobody_gave_gives_way_to_max_size(size: object, least: int) -> None:
    made = DatabaseSettings.model_validate({"role": "app", "max_size": size})
    assert (made.min_size, made.overlap) == (least, least)
    assert "min_size" not in made.model_fields_set


@pytest.mark.parametrize(
    "name",
    [
        "timeout",
        "max_lifetime",
        "max_idle",
        "max_age",
        "check_interval",
        "increment",
        "drain_timeout",
        "build_timeout",
        "reconnect_timeout",
    ],
)
@pytest.mark.parametrize("value", [0, -1.5, float("nan"), float("inf"), "0s"])
def test_durations_are_positive_and_finite(name: str, value: object) -> None:
    (mistake,) = database(**{name: value})
    assert mistake.startswith(f"argument {name} of DatabaseSettings is ")
    assert "give" in mistake


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 30.0), ("30s", 30.0), ("1.5", 1.5), ("1m30s", 90.0), ("500ms", 0.5), ("2h", 7200.0), ("1d", 86400.0)],
)
def test_durations_may_have_units(text: str, seconds: float) -> None:
    assert VaultSettings.model_validate({"timeout": text}).timeout == seconds


@pytest.mark.parametrize("text", ["30 parsecs", "s", "-30s", "1s2", ""])
def test_other_texts_are_no_durations(text: str) -> None:
    assert len(mistakes(VaultSettings, timeout=text)) == 1


@pytest.mark.parametrize("name", ["max_size", "overlap", "num_workers"])
def test_sizes_of_at_least_one(name: str) -> None:
    assert database(min_size=0, **{name: 0}) == (f"argument {name} of DatabaseSettings is 0: give 1 or more",)


@pytest.mark.parametrize("role", ["", "a b", "a/b", "../x", "rôle", "-a"])
def test_role_that_vault_would_not_take(role: str) -> None:
    (mistake,) = mistakes(DatabaseSettings, role=role)
    assert mistake.startswith("argument role of DatabaseSettings is no name of a Vault role")


@pytest.mark.parametrize("mount", ["", "/", "a//b", "../x", "a b", "a?b"])
def test_mount_that_is_no_path(mount: str) -> None:
    (mistake,) = database(mount=mount)
    assert mistake.startswith("argument mount of DatabaseSettings is no path of a Vault mount")


def test_slashes_around_a_mount_do_not_matter() -> None:
    assert DatabaseSettings(role="app", mount="/team/database/").mount == "team/database"


def test_kwargs_must_not_hold_what_vault_supplies() -> None:
    for name in ("user", "password"):
        assert database(kwargs={"autocommit": True, name: SECRET}) == (
            f"argument kwargs of DatabaseSettings holds {name}: take that out, Vault supplies both user and password",
        )
    (mistake,) = database(kwargs={"conninfo": "host=x"})
    assert "use the setting conninfo" in mistake


@pytest.mark.parametrize("name", ["min_size", "max_size", "overlap", "max_waiting", "num_workers"])
def test_true_and_false_are_no_sizes(name: str) -> None:
    assert f"argument {name} of DatabaseSettings is not a whole number: give one such as 4" in database(**{name: True})


def test_true_and_false_are_no_seconds() -> None:
    assert database(timeout=True) == (
        "argument timeout of DatabaseSettings is not a number of seconds: give one such as 30 or 30s",
    )


async def _hook(_connection: psycopg.AsyncConnection[Any]) -> None:
    """Nothing to set up."""


def test_python_objects_are_taken_as_they_are() -> None:
    class Connection(psycopg.AsyncConnection[Any]):
        pass

    settings = DatabaseSettings(role="app", connection_class=Connection, configure=_hook, probe=_hook)
    assert settings.connection_class is Connection
    assert settings.configure is _hook
    assert settings.probe is _hook


@pytest.mark.parametrize("name", ["configure", "check", "reset", "probe"])
def test_a_hook_is_a_coroutine_function(name: str) -> None:
    def hook(_connection: psycopg.AsyncConnection[Any]) -> None:
        """No async: nobody could await it."""

    def passed_on(connection: psycopg.AsyncConnection[Any]) -> Awaitable[None]:
        return _hook(connection)

    (mistake,) = database(**{name: hook})
    assert mistake.startswith(
        f"argument {name} of DatabaseSettings is test_a_hook_is_a_coroutine_function.<locals>.hook, no corou"
    )
    assert len(database(**{name: functools.partial(hook)})) == 1
    fine: Any
    for fine in (
        _hook,
        functools.partial(_hook),
        passed_on,
        lambda connection: passed_on(connection=connection),
        psycopg_pool.AsyncConnectionPool.check_connection,
    ):
        assert getattr(DatabaseSettings(role="app", **{name: fine}), name) is fine


def test_functions_are_called_with_what_they_take() -> None:
    async def nothing() -> None: ...

    (said,) = database(probe=nothing)
    assert said.endswith("nothing, which cannot be called with the connection alone: let it take that one argument")
    (said,) = database(reconnect_failed=nothing)
    assert said.endswith("nothing, which cannot be called with the pool alone: let it take that one argument")
    (said,) = mistakes(CustomAuth, login=_hook)
    assert said.endswith("is a coroutine function that cannot be called without arguments: let it take none")
    (said,) = mistakes(CustomAuth, login=lambda: "hvs.x")
    assert said.endswith("is a function that cannot be called with an hvac client alone: let it take that one argument")
    (said,) = mistakes(CallableSource, call=_hook)
    assert said.endswith("_hook, which cannot be called without arguments: let it take none")


def test_the_hook_of_a_failed_reconnection_may_be_a_plain_function() -> None:
    told: list[object] = []
    settings = DatabaseSettings(role="app", reconnect_failed=told.append)
    pool = LeasedPool(Connector(Credential("app", SecretStr(SECRET)), psycopg.AsyncConnection), settings, "app-1")
    assert pool._reconnect_failed == told.append
    assert json.loads(settings.model_dump_json())["reconnect_failed"] == "list.append"


def test_python_objects_of_the_wrong_kind() -> None:
    assert database(connection_class=dict, configure="my.module:configure") == (
        "argument connection_class of DatabaseSettings is no kind of psycopg's AsyncConnection: derive the class from that",
        "argument configure of DatabaseSettings is no Python function: pass one as an argument of DatabaseSettings",
    )
    (mistake,) = database(connection_class="psycopg.AsyncConnection")
    assert "is no Python class" in mistake


@pytest.mark.parametrize(
    "address",
    ["", "vault.example.com:8200", "ftp://vault", "https://", "https://v:port", "https://v/?a=1", "https://v x", "https://[::1"],
)
def test_address_that_is_no_url(address: str) -> None:
    (mistake,) = mistakes(VaultSettings, address=address)
    assert mistake.startswith("argument address of VaultSettings ")
    assert mistake.endswith(": give a URL such as https://vault.example.com:8200")


def test_address_with_the_path_that_each_request_adds() -> None:
    for address in ("https://vault:8200/v1", "https://proxy/vault/v1/"):
        (mistake,) = mistakes(VaultSettings, address=address)
        assert mistake.startswith(
            "argument address of VaultSettings ends in /v1, which each request adds by itself: give a URL such as "
        )
    assert VaultSettings(address="https://proxy/vault").address == "https://proxy/vault"


def test_address_with_a_password() -> None:
    (mistake,) = mistakes(VaultSettings, address=f"https://me:{SECRET}@vault:8200")
    assert "holds a user name or password" in mistake


def test_address_loses_its_last_slash() -> None:
    assert VaultSettings(address="https://vault:8200/").address == "https://vault:8200"


@pytest.mark.parametrize("name", ["ca_cert", "ca_path", "client_cert", "client_key"])
def test_files_have_to_be_there(name: str, tmp_path: Path) -> None:
    cert = tmp_path / "cert.pem"
    cert.write_text(PEM)
    pair = {"client_cert": cert, "client_key": cert} if name.startswith("client") else {}
    (mistake,) = mistakes(VaultSettings, **{**pair, name: tmp_path / "none.pem"})
    assert mistake.startswith(f"argument {name} of VaultSettings names {tmp_path}/none.pem, which ")


def test_file_that_is_a_directory_and_the_other_way_round(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.touch()
    assert mistakes(VaultSettings, ca_cert=tmp_path, ca_path=file) == (
        f"argument ca_cert of VaultSettings names {tmp_path}, which is a directory: name one that this process can read",
        f"argument ca_path of VaultSettings names {file}, which is no directory: name one of CA certificates",
    )


def test_file_without_the_right_to_read_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "ca.pem"
    file.touch()
    # Permissions mean nothing to root, as whom the tests may run.
    monkeypatch.setattr(os, "access", lambda path, mode: not (path == file and mode == os.R_OK))
    (mistake,) = mistakes(VaultSettings, ca_cert=file)
    assert "which cannot be read" in mistake


def test_home_in_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ca.pem").write_text(PEM)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert VaultSettings(ca_cert=Path("~/ca.pem")).ca_cert == tmp_path / "ca.pem"


@pytest.mark.parametrize("name", ["ca_cert", "client_cert"])
@pytest.mark.parametrize("text", ["", "vault.internal\n", PEM[:200]])
def test_a_file_without_a_certificate_is_told_at_once(name: str, text: str, tmp_path: Path) -> None:
    file = tmp_path / "cert.pem"
    file.write_text(text)
    pair = {"client_key": file} if name.startswith("client") else {}
    assert mistakes(VaultSettings, **{**pair, name: file}) == (
        f"argument {name} of VaultSettings names {file}, which holds no certificate in PEM: name one that does",
    )


def test_client_cert_and_key_go_together(tmp_path: Path) -> None:
    file = tmp_path / "x.pem"
    file.write_text(PEM)
    both = "give {} as an argument of VaultSettings, or leave both out"
    (mistake,) = mistakes(VaultSettings, client_cert=file)
    assert (
        mistake == f"client_key (default) is not given, but argument client_cert of VaultSettings is: {both.format('client_key')}"
    )
    (mistake,) = mistakes(VaultSettings, client_key=file)
    assert mistake == f"argument client_key of VaultSettings is given without client_cert: {both.format('client_cert')}"
    assert VaultSettings(client_cert=file, client_key=file).client_key == file


def test_login_method_by_a_plain_dict() -> None:
    settings = VaultSettings.model_validate({"auth": {"method": "approle", "role_id": "r", "secret_id": SECRET}})
    assert settings.auth == AppRoleAuth(role_id="r", secret_id=SecretStr(SECRET))
    assert VaultSettings.model_validate({"auth": {"token": SECRET}}).auth == TokenAuth(token=SecretStr(SECRET))


def test_unknown_login_method() -> None:
    assert mistakes(VaultSettings, auth={"method": "aprole"}) == (
        "argument auth.method of VaultSettings is 'aprole', which is no login method: did you mean approle? Known are "
        + METHOD_NAMES,
    )
    assert mistakes(VaultSettings, auth={"method": "kerberos"}) == (
        "argument auth.method of VaultSettings is 'kerberos', which is no login method: give one of " + METHOD_NAMES,
    )
    (mistake,) = mistakes(VaultSettings, auth={"method": SECRET})
    assert mistake == "argument auth.method of VaultSettings holds what is no login method: give one of " + METHOD_NAMES


def test_setting_of_another_login_method() -> None:
    (mistake,) = mistakes(VaultSettings, auth={"method": "token", "role_id": "r"})
    assert mistake.endswith("is no setting: the login method is token, and role_id belongs to approle: set method to that")


def test_approle_wants_a_role_id_and_one_secret_id(tmp_path: Path) -> None:
    file = tmp_path / "secret-id"
    file.touch()
    assert mistakes(AppRoleAuth, secret_id=SECRET, secret_id_file=file) == (
        "no AppRole role id: give role_id as an argument of AppRoleAuth",
        "argument secret_id_file of AppRoleAuth is given besides argument secret_id of AppRoleAuth: give only one of them",
    )


def test_secret_given_where_its_file_is_asked_for_is_not_shown() -> None:
    (mistake,) = mistakes(AppRoleAuth, role_id="r", secret_id_file=SECRET)
    assert "names a file, which does not exist" in mistake


@pytest.mark.parametrize("token", ["", "  ", f"{SECRET} {SECRET}", f"{SECRET}\n{SECRET}", f"{SECRET}é", f"{SECRET}\x00"])
def test_token_that_fits_no_header(token: str) -> None:
    assert len(mistakes(TokenAuth, token=token)) == 1


def test_space_around_a_token_is_taken_off() -> None:
    token = TokenAuth(token=SecretStr(f" {SECRET}\n")).token
    assert token is not None
    assert token.get_secret_value() == SECRET


def test_wrong_types_do_not_show_their_values() -> None:
    assert mistakes(TokenAuth, token=[SECRET]) == ("argument token of TokenAuth is not a text: give it as a string",)
    assert len(mistakes(VaultSettings, auth=SECRET, timeout=SECRET, skip_verify=SECRET, address=[SECRET], ca_cert=[SECRET])) == 5


def test_no_secret_in_any_text_of_a_model() -> None:
    vault = VaultSettings(auth=AppRoleAuth(role_id="r", secret_id=SecretStr(SECRET)))
    database = DatabaseSettings(
        role="app", conninfo=f"host=db sslcert=c sslpassword={SECRET}", kwargs={"sslpassword": SECRET, "autocommit": True}
    )
    uri = DatabaseSettings(role="app", conninfo=f"postgresql://db/app?sslpassword={SECRET}&sslmode=require")
    for model in (vault, database, uri):
        assert SECRET not in f"{model} {model!r} {model.model_dump_json()}"
    assert json.loads(database.model_dump_json())["conninfo"] == "host=db sslcert=c sslpassword=***"
    assert json.loads(uri.model_dump_json())["conninfo"] == "postgresql://db/app?sslpassword=***&sslmode=require"
    assert SECRET in database.conninfo


def test_json_names_python_objects() -> None:
    dumped = json.loads(DatabaseSettings(role="app", connection_class=psycopg.AsyncConnection, check=_hook).model_dump_json())
    assert (dumped["connection_class"], dumped["check"], dumped["probe"]) == ("AsyncConnection", "_hook", None)


def test_import_of_settings_needs_no_driver() -> None:
    code = "import sys, vault_pg.settings; sys.exit(any(name in sys.modules for name in ('hvac', 'psycopg', 'psycopg_pool')))"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
