"""Settings out of all their sources: which one wins, how they are merged, and what each mistake says."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from pydantic import SecretStr

from tests.pem import PEM
from vault_pg.errors import SettingsError
from vault_pg.settings import AppRoleAuth, DatabaseSettings, JwtAuth, Settings, TokenAuth, VaultSettings
from vault_pg.settings.table import rows

SECRET = "hvs.CAESIJmuchtoosecrettoshow"
METHOD_NAMES = "token, agent, approle, kubernetes, jwt, userpass, ldap, cert, aws, azure, gcp, custom"
NO_ROLE = (
    "no database role: set VAULT_PG_ROLE, or give databases.default.role as an argument or in the TOML file, "
    "or put vault_role=… into the conninfo"
)
NO_TOKEN = (
    "no Vault token: set VAULT_TOKEN or VAULT_PG_TOKEN_FILE, write ~/.vault-token, or set VAULT_PG_AUTH to another login method "
    "(agent, approle, kubernetes, jwt, userpass, ldap, cert, aws, azure, gcp, custom) and that method's variables"
)

Env: TypeAlias = Callable[..., None]


@pytest.fixture(autouse=True)
def env(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Env:
    """An environment with nothing of Vault in it, and an empty home; call it to set variables."""
    for name in [name for name in os.environ if name.startswith(("VAULT_", "AWS_"))]:
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))

    def put(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return put


@pytest.fixture
def toml(env: Env, tmp_path: Path) -> Callable[[str], Path]:
    """Write a TOML file and name it in the environment."""

    def write(text: str) -> Path:
        file = tmp_path / "app.toml"
        file.write_text(text, encoding="utf-8")
        env(VAULT_PG_CONFIG=str(file))
        return file

    return write


def mistakes(**data: Any) -> tuple[str, ...]:
    """What `Settings(**data)` says is wrong. Nothing of what was given may be seen in its text or its traceback."""
    with pytest.raises(SettingsError) as caught:
        Settings(**data)
    error = caught.value
    assert error.__cause__ is None
    assert error.__context__ is None
    assert SECRET not in "".join(traceback.format_exception(error)) + repr(error)
    inner = traceback.TracebackException.from_exception(error, capture_locals=True).stack[-1]
    assert SECRET not in str(inner.locals)
    return error.mistakes


def token(settings: Settings) -> str:
    assert isinstance(settings.vault.auth, TokenAuth)
    auth = settings.vault.auth
    if auth.token is None:
        assert auth.token_file is not None
        return f"in {auth.token_file.name}"
    return auth.token.get_secret_value()


def test_nothing_given_tells_both_mistakes_at_once() -> None:
    assert mistakes() == (NO_TOKEN, NO_ROLE)


def test_four_variables_are_enough(env: Env) -> None:
    env(VAULT_ADDR="http://vault:8200", VAULT_TOKEN=SECRET, VAULT_PG_ROLE="app", VAULT_PG_CONNINFO="host=db dbname=app")
    settings = Settings()
    assert settings.vault == VaultSettings(address="http://vault:8200", auth=TokenAuth(token=SecretStr(SECRET)))
    assert settings.databases == {"default": DatabaseSettings(role="app", conninfo="host=db dbname=app")}
    assert (settings.start_timeout, settings.shutdown_timeout, settings.runtime_dir) == (30.0, 10.0, None)
    assert (settings.handle_sigterm, settings.status_socket) == (True, True)
    assert SECRET not in f"{settings} {settings!r} {settings.model_dump_json()}"


def test_every_variable_reaches_its_setting(env: Env, tmp_path: Path) -> None:
    file = tmp_path / "x.pem"
    file.write_text(PEM)
    env(
        VAULT_ADDR="https://vault",
        VAULT_NAMESPACE="team",
        VAULT_CACERT=str(file),
        VAULT_CACERT_BYTES=PEM,
        VAULT_CAPATH=str(tmp_path),
        VAULT_CLIENT_CERT=str(file),
        VAULT_CLIENT_KEY=str(file),
        VAULT_TLS_SERVER_NAME="vault.internal",
        VAULT_SKIP_VERIFY="t",
        VAULT_CLIENT_TIMEOUT="5s",
        VAULT_PG_AUTH="approle",
        VAULT_PG_APPROLE_ROLE_ID="role-id",
        VAULT_PG_APPROLE_SECRET_ID_FILE=str(file),
        VAULT_PG_APPROLE_WRAPPED="1",
        VAULT_PG_APPROLE_ROLE="app",
        VAULT_PG_APPROLE_MOUNT="team/approle",
        VAULT_PG_ROLE="app",
        VAULT_PG_MOUNT="team/db",
        VAULT_PG_CONNINFO="dbname=app",
        VAULT_PG_MIN_SIZE="1",
        VAULT_PG_MAX_SIZE="2",
        VAULT_PG_OVERLAP="3",
        VAULT_PG_TIMEOUT="4",
        VAULT_PG_MAX_WAITING="5",
        VAULT_PG_MAX_LIFETIME="6",
        VAULT_PG_MAX_IDLE="7",
        VAULT_PG_MAX_AGE="8h",
        VAULT_PG_CHECK_INTERVAL="19",
        VAULT_PG_INCREMENT="9",
        VAULT_PG_DRAIN_TIMEOUT="10",
        VAULT_PG_BUILD_TIMEOUT="11",
        VAULT_PG_CLOSE_RETURNS="1",
        VAULT_PG_RECONNECT_TIMEOUT="20",
        VAULT_PG_NUM_WORKERS="21",
        VAULT_PG_START_TIMEOUT="12",
        VAULT_PG_SHUTDOWN_TIMEOUT="13",
        VAULT_PG_HANDLE_SIGTERM="0",
        VAULT_PG_STATUS_SOCKET="false",
        VAULT_PG_RUNTIME_DIR="/run/vault-pg",
    )
    auth = AppRoleAuth(role_id="role-id", secret_id_file=file, wrapped=True, role="app", mount="team/approle")
    assert Settings().model_dump() == {
        "vault": {
            "address": "https://vault",
            "namespace": "team",
            "auth": auth.model_dump(),
            "ca_cert": file,
            "ca_cert_bytes": PEM,
            "ca_path": tmp_path,
            "client_cert": file,
            "client_key": file,
            "tls_server_name": "vault.internal",
            "skip_verify": True,
            "timeout": 5.0,
        },
        "databases": {
            "default": DatabaseSettings(
                role="app",
                mount="team/db",
                conninfo="dbname=app",
                min_size=1,
                max_size=2,
                overlap=3,
                timeout=4,
                max_waiting=5,
                max_lifetime=6,
                max_idle=7,
                max_age=8 * 3600,
                check_interval=19,
                increment=9,
                drain_timeout=10,
                build_timeout=11,
                close_returns=True,
                reconnect_timeout=20,
                num_workers=21,
            ).model_dump()
        },
        "start_timeout": 12.0,
        "shutdown_timeout": 13.0,
        "handle_sigterm": False,
        "status_socket": False,
        "runtime_dir": Path("/run/vault-pg"),
    }
    mine = [row for row in rows() if row.name.partition(" (")[2] in {"", "approle)"} and ".source." not in row.name]
    assert all(row.variable in os.environ for row in mine if row.variable not in {None, "VAULT_PG_APPROLE_SECRET_ID"})


FILE = "a file that is there"


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("token", {"token_file": FILE}),
        ("agent", {}),
        ("kubernetes", {"role": "app", "token_file": FILE, "mount": "k8s/eu"}),
        ("jwt", {"role": "app", "jwt": SECRET, "mount": "m"}),
        ("jwt", {"jwt_file": FILE}),
        ("userpass", {"username": "bob", "password": "pass word", "mount": "m"}),
        ("userpass", {"username": "bob", "password_file": FILE}),
        ("ldap", {"username": "bob", "password": "pass word", "mount": "m"}),
        ("ldap", {"username": "bob", "password_file": FILE}),
        ("cert", {"role": "web", "mount": "m"}),
        (
            "aws",
            {
                "role": "app",
                "access_key": "AKIA",
                "secret_key": SECRET,
                "session_token": SECRET,
                "region": "eu",
                "header_value": "v",
            },
        ),
        ("aws", {"access_key": "AKIA", "secret_key": SECRET, "mount": "m"}),
        ("azure", {"role": "app", "jwt": SECRET, "resource": "r", "metadata": "http://m", "mount": "m"}),
        ("azure", {"role": "app", "jwt_file": FILE}),
        ("gcp", {"role": "app", "jwt": SECRET, "metadata": "http://m", "mount": "m"}),
        ("gcp", {"role": "app", "jwt_file": FILE}),
    ],
)
def test_every_login_method_comes_from_the_environment(env: Env, tmp_path: Path, method: str, settings: dict[str, str]) -> None:
    file = tmp_path / "x.pem"
    file.touch()
    certificate = tmp_path / "certificate.pem"
    certificate.write_text(PEM)
    settings = {name: str(file) if value == FILE else value for name, value in settings.items()}
    variables = {row.name: row.variable for row in rows()}
    env(VAULT_PG_ROLE="app", VAULT_PG_AUTH=method, VAULT_CLIENT_CERT=str(certificate), VAULT_CLIENT_KEY=str(file))
    env(**{str(variables[f"vault.auth.{name} ({method})"]): value for name, value in settings.items()})
    auth = Settings().vault.auth
    assert auth.method == method
    seen = {name: getattr(auth, name) for name in settings}
    assert {
        name: value.get_secret_value() if isinstance(value, SecretStr) else str(value) for name, value in seen.items()
    } == settings
    assert SECRET not in f"{auth!r} {auth.model_dump_json()}"
    assert "pass word" not in f"{auth!r} {auth.model_dump_json()}"


@pytest.mark.parametrize(
    ("method", "variables", "said"),
    [
        ("kubernetes", {}, "no role of the login: set VAULT_PG_KUBERNETES_ROLE"),
        (
            "jwt",
            {},
            (
                "no JWT: set VAULT_PG_JWT_JWT or VAULT_PG_JWT_JWT_FILE, "
                "or give vault.auth.jwt or vault.auth.jwt_file as an argument or in the TOML file"
            ),
        ),
        (
            "userpass",
            {"VAULT_PG_USERPASS_USERNAME": "bob"},
            "no password of the login: set VAULT_PG_USERPASS_PASSWORD or VAULT_PG_USERPASS_PASSWORD_FILE, or give ",
        ),
        ("ldap", {"VAULT_PG_LDAP_USERNAME": "a/b", "VAULT_PG_LDAP_PASSWORD": "x"}, "VAULT_PG_LDAP_USERNAME is no user name"),
        ("cert", {}, "vault.client_cert (default) is not given, but the login method is cert: set VAULT_CLIENT_CERT"),
        (
            "aws",
            {"AWS_ACCESS_KEY_ID": "AKIA"},
            "vault.auth.secret_key (default) and environment variable AWS_ACCESS_KEY_ID belong together: set AWS_SECRET_ACCESS_KEY",
        ),
        (
            "approle",
            {"VAULT_PG_APPROLE_ROLE_ID": "x", "VAULT_PG_APPROLE_WRAPPED": "1"},
            "VAULT_PG_APPROLE_WRAPPED is set with no secret id: set VAULT_PG_APPROLE_SECRET_ID or VAULT_PG_APPROLE_SECRET_ID_FILE",
        ),
        ("custom", {}, "no login function: give CustomAuth(login=…) in Python for the argument vault.auth, because neither"),
    ],
)
def test_what_a_login_method_lacks_is_one_sentence(env: Env, method: str, variables: dict[str, str], said: str) -> None:
    env(VAULT_PG_ROLE="app", VAULT_PG_AUTH=method, **variables)
    told = mistakes()
    assert any(said in each for each in told), told


def test_where_two_ways_are_given_at_once_the_stronger_source_counts(
    env: Env, toml: Callable[[str], Path], tmp_path: Path
) -> None:
    file = tmp_path / "jwt"
    file.touch()
    toml('[vault.auth]\nmethod = "jwt"\njwt = "of-the-file"')
    env(VAULT_PG_ROLE="app", VAULT_PG_JWT_JWT_FILE=str(file))
    auth = Settings().vault.auth
    assert isinstance(auth, JwtAuth)
    assert (auth.jwt, auth.jwt_file) == (None, file)
    env(VAULT_PG_JWT_JWT="of-the-environment")
    (mistake,) = mistakes()
    assert "give only one of them" in mistake


def test_the_address_of_an_agent_beats_that_of_vault(env: Env, toml: Callable[[str], Path]) -> None:
    toml('vault.address = ["http://file", "http://other"]')
    env(VAULT_TOKEN=SECRET, VAULT_PG_ROLE="app")
    assert Settings().vault.addresses == ("http://file", "http://other")
    env(VAULT_ADDR="http://vault:8200")
    assert Settings().vault.address == "http://vault:8200"
    env(VAULT_AGENT_ADDR="unix:///run/vault/agent.sock")
    assert Settings().vault.addresses == ("unix:///run/vault/agent.sock",)
    env(VAULT_AGENT_ADDR="ftp://vault")
    (mistake,) = mistakes()
    assert mistake.startswith("environment variable VAULT_AGENT_ADDR is no http or https URL")


def test_several_addresses_are_checked_one_by_one(env: Env) -> None:
    env(VAULT_TOKEN=SECRET, VAULT_PG_ROLE="app", VAULT_ADDR="https://a:8200/, https://b:8200 ,https://a:8200")
    assert Settings().vault.addresses == ("https://a:8200", "https://b:8200")
    for bad, said in (
        ("https://a,b", "is no http or https URL"),
        ("https://a,", "is no http"),
        ("unix://agent.sock", "whole path"),
    ):
        env(VAULT_ADDR=bad)
        (mistake,) = mistakes()
        assert said in mistake


def test_arguments_are_stronger_than_environment_and_that_than_the_file(env: Env, toml: Callable[[str], Path]) -> None:
    toml(
        'start_timeout = 1\n[vault]\naddress = "http://file"\ntimeout = 1\n[databases.default]\nrole = "file"\nmax_size = 5\nmin_size = 1'
    )
    env(VAULT_TOKEN=SECRET, VAULT_ADDR="http://env", VAULT_CLIENT_TIMEOUT="2", VAULT_PG_ROLE="env", VAULT_PG_MAX_SIZE="6")
    settings = Settings(vault=VaultSettings(address="http://argument"), databases={"default": DatabaseSettings(role="argument")})
    default = settings.databases["default"]
    assert (settings.vault.address, settings.vault.timeout, settings.start_timeout) == ("http://argument", 2.0, 1.0)
    assert (default.role, default.max_size, default.min_size) == ("argument", 6, 1)


def test_dicts_do_as_well_as_classes(env: Env) -> None:
    env(VAULT_PG_APPROLE_SECRET_ID=SECRET)
    by_dict = Settings.model_validate(
        {"vault": {"auth": {"method": "approle", "role_id": "r"}}, "databases": {"default": {"role": "app", "max_size": 7}}}
    )
    by_class = Settings(
        vault=VaultSettings(auth=AppRoleAuth(role_id="r")), databases={"default": DatabaseSettings(role="app", max_size=7)}
    )
    assert by_dict == by_class
    assert by_class.vault.auth == AppRoleAuth(role_id="r", secret_id=SecretStr(SECRET))


def test_default_set_by_hand_is_stronger_than_the_environment(env: Env) -> None:
    env(VAULT_TOKEN=SECRET, VAULT_PG_MIN_SIZE="1", VAULT_NAMESPACE="team")
    settings = Settings(vault=VaultSettings(namespace=None), databases={"default": DatabaseSettings(role="app", min_size=4)})
    assert settings.databases["default"].min_size == 4
    assert settings.vault.namespace is None


def test_a_small_max_size_alone_is_enough(env: Env) -> None:
    env(VAULT_TOKEN=SECRET, VAULT_PG_ROLE="app", VAULT_PG_MAX_SIZE="2")
    assert Settings().databases["default"].min_size == 2
    small = DatabaseSettings(role="app", max_size=3)
    assert Settings(databases={"default": small}).databases["default"].min_size == 3
    env(VAULT_PG_MIN_SIZE="1")
    assert Settings(databases={"default": small}).databases["default"].min_size == 1
    env(VAULT_PG_MIN_SIZE="3")
    (mistake,) = mistakes()
    assert mistake.startswith(
        "environment variable VAULT_PG_MAX_SIZE is 2, less than environment variable VAULT_PG_MIN_SIZE, 3: "
    )


def test_environment_adds_no_database_to_those_given(env: Env, toml: Callable[[str], Path]) -> None:
    env(VAULT_TOKEN=SECRET, VAULT_PG_ROLE="app")
    assert set(Settings(databases={"reports": DatabaseSettings(role="reports")}).databases) == {"reports"}
    assert set(Settings().databases) == {"default"}
    assert set(Settings(databases={}).databases) == {"default"}
    toml('[databases.reports]\nrole = "reports"\nmax_size = 20\n[databases.other]\nrole = "other"')
    assert list(Settings().databases) == ["reports", "other"]
    given = Settings(databases={"reports": DatabaseSettings(role="mine")}).databases
    assert given == {"reports": DatabaseSettings(role="mine", max_size=20)}


def test_empty_variables_count_as_not_set(env: Env) -> None:
    env(VAULT_TOKEN="", VAULT_PG_ROLE=" ", VAULT_PG_CONFIG="")
    assert mistakes() == (NO_TOKEN, NO_ROLE)


def test_role_and_mount_in_the_conninfo_of_the_environment(env: Env, toml: Callable[[str], Path]) -> None:
    toml('[databases.default]\nrole = "file"\nmount = "file"')
    env(VAULT_TOKEN=SECRET, VAULT_PG_CONNINFO="postgresql://h1:5432,h2/app?vault_role=env&sslmode=require")
    default = Settings().databases["default"]
    assert (default.role, default.mount, default.conninfo) == ("env", "file", "postgresql://h1:5432,h2/app?sslmode=require")
    assert Settings(databases={"default": DatabaseSettings(role="mine")}).databases["default"].role == "mine"
    env(VAULT_PG_ROLE="other")
    (mistake,) = mistakes()
    assert mistake.startswith("environment variable VAULT_PG_CONNINFO says vault_role, and another role is given beside it")


def test_bad_role_in_a_conninfo_names_the_variable_that_holds_it(env: Env) -> None:
    env(VAULT_TOKEN=SECRET, VAULT_PG_CONNINFO="host=db vault_role=a/b")
    (mistake,) = mistakes()
    assert mistake.startswith("environment variable VAULT_PG_CONNINFO is no name of a Vault role")


def test_token_of_the_home_directory_is_the_weakest(env: Env, toml: Callable[[str], Path]) -> None:
    env(VAULT_PG_ROLE="app")
    (Path.home() / ".vault-token").write_text("from-home\n", encoding="utf-8")
    assert token(Settings()) == "in .vault-token"
    assert token(Settings(vault=VaultSettings(auth=TokenAuth(token=None)))) == "in .vault-token"
    toml('[vault.auth]\ntoken = "from-file"')
    assert token(Settings()) == "from-file"
    env(VAULT_TOKEN=" from-env ")
    assert token(Settings()) == "from-env"
    assert token(Settings(vault=VaultSettings(auth=TokenAuth(token=SecretStr("mine"))))) == "mine"


def test_blank_token_file_is_no_token(env: Env) -> None:
    env(VAULT_PG_ROLE="app")
    (Path.home() / ".vault-token").write_text("\n", encoding="utf-8")
    assert mistakes() == (NO_TOKEN,)


def test_token_file_that_cannot_be_read(env: Env) -> None:
    env(VAULT_PG_ROLE="app")
    (Path.home() / ".vault-token").mkdir()
    (mistake,) = mistakes()
    assert mistake.startswith("~/.vault-token cannot be read: ")
    env(VAULT_PG_ROLE="")
    assert mistakes() == (mistake, NO_ROLE)
    env(VAULT_TOKEN=SECRET, VAULT_PG_ROLE="app")
    assert token(Settings()) == SECRET


def test_token_with_a_line_break_names_where_it_came_from(env: Env) -> None:
    env(VAULT_PG_ROLE="app", VAULT_TOKEN=f"{SECRET}\nx")
    (mistake,) = mistakes()
    assert mistake.startswith("environment variable VAULT_TOKEN holds a space, a line break")
    env(VAULT_TOKEN="")
    (Path.home() / ".vault-token").write_text(f"{SECRET}\nx", encoding="utf-8")
    (mistake,) = mistakes()
    assert mistake.startswith(
        f"vault.auth.token_file (default) names {Path.home()}/.vault-token, which holds a space, a line break"
    )


def test_approle_needs_no_token_and_tells_its_own_variables(env: Env) -> None:
    env(VAULT_PG_AUTH="approle", VAULT_PG_ROLE="app")
    assert mistakes() == (
        "no AppRole role id: set VAULT_PG_APPROLE_ROLE_ID, or give vault.auth.role_id as an argument or in the TOML file",
    )
    env(VAULT_PG_APPROLE_ROLE_ID="r", VAULT_PG_APPROLE_SECRET_ID=SECRET)
    assert Settings().vault.auth == AppRoleAuth(role_id="r", secret_id=SecretStr(SECRET))


def test_login_method_of_a_weaker_source_brings_none_of_its_settings(env: Env, toml: Callable[[str], Path]) -> None:
    toml('[vault.auth]\nmethod = "approle"\nrole_id = "file"\nmount = "file"')
    env(VAULT_TOKEN=SECRET, VAULT_PG_ROLE="app", VAULT_PG_APPROLE_ROLE_ID="env")
    assert Settings().vault.auth == AppRoleAuth(role_id="env", mount="file")
    env(VAULT_PG_AUTH="token")
    assert token(Settings()) == SECRET
    assert Settings(vault=VaultSettings(auth=AppRoleAuth(role_id="mine"))).vault.auth == AppRoleAuth(role_id="mine", mount="file")


def test_stronger_secret_id_replaces_the_file_of_a_weaker_source(env: Env, toml: Callable[[str], Path], tmp_path: Path) -> None:
    secret_id = tmp_path / "secret-id"
    secret_id.touch()
    toml(f'[vault.auth]\nmethod = "approle"\nrole_id = "r"\nsecret_id_file = "{secret_id}"')
    env(VAULT_PG_ROLE="app")
    assert Settings().vault.auth == AppRoleAuth(role_id="r", secret_id_file=secret_id)
    env(VAULT_PG_APPROLE_SECRET_ID=SECRET)
    assert Settings().vault.auth == AppRoleAuth(role_id="r", secret_id=SecretStr(SECRET))
    env(VAULT_PG_APPROLE_SECRET_ID_FILE=str(secret_id))
    assert mistakes() == (
        (
            "environment variable VAULT_PG_APPROLE_SECRET_ID_FILE is given besides "
            "environment variable VAULT_PG_APPROLE_SECRET_ID: give only one of them"
        ),
    )


def test_unknown_login_method(env: Env) -> None:
    env(VAULT_PG_ROLE="app", VAULT_PG_AUTH="aprole")
    assert mistakes() == (
        "environment variable VAULT_PG_AUTH is 'aprole', which is no login method: did you mean approle? Known are "
        + METHOD_NAMES,
    )
    env(VAULT_PG_AUTH=SECRET)
    assert mistakes() == ("environment variable VAULT_PG_AUTH holds what is no login method: give one of " + METHOD_NAMES,)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("VAULT_PG_ROL", "did you mean VAULT_PG_ROLE?"),
        ("VAULT_PG_APPROLE_ROLEID", "did you mean VAULT_PG_APPROLE_ROLE_ID?"),
        ("VAULT_PG_CONFG", "did you mean VAULT_PG_CONFIG?"),
        ("VAULT_PG_XYZZY", "known are VAULT_PG_"),
    ],
)
def test_misspelt_variable(env: Env, name: str, hint: str) -> None:
    env(VAULT_TOKEN=SECRET, VAULT_PG_ROLE="app", **{name: SECRET})
    (mistake,) = mistakes()
    assert mistake.startswith(f"environment variable {name} is no setting: {hint}")


@pytest.mark.parametrize(
    "name",
    [
        "VAULT_PG_TEST_VAULT",
        "VAULT_PG_LOG_LEVEL",
        "VAULT_PG_LOGFORMAT",
        "VAULT_PG_SERVICE_HOST",
        "VAULT_PG_PORT_5432_TCP_ADDR",
        "VAULT_PG_DB_SERVICE_PORT_POSTGRES",
        "VAULT_PG_PORT",
        "VAULT_PGX",
        "VAULT_FORMAT",
    ],
)
def test_variables_of_others_are_let_be(env: Env, name: str) -> None:
    env(VAULT_TOKEN=SECRET, VAULT_PG_ROLE="app", **{name: "x"})
    assert Settings().databases["default"].role == "app"


def test_unknown_keys_of_the_file(toml: Callable[[str], Path]) -> None:
    file = toml(
        'start_timeut = 3\n[vault]\nadress = "http://v"\n[vault.auth]\ntoken = "t"\nrole_id = "r"\n'
        '[databases.default]\nrole = "app"\npassword = "hvs.CAESIJmuchtoosecrettoshow"\n[databases.other]\nrole = "b"\nminsize = 3'
    )
    told = dict(mistake.split(f" in {file} is no setting: ") for mistake in mistakes())
    assert told["start_timeut"] == "did you mean start_timeout?"
    assert told["vault.adress"] == "did you mean address?"
    assert told["vault.auth.role_id"] == "the login method is token, and role_id belongs to approle: set method to that"
    assert told["databases.default.password"].startswith("known are build_timeout, check, ")
    assert told["databases.other.minsize"] == "did you mean min_size?"
    assert len(told) == 5


def test_wrong_values_of_the_file(toml: Callable[[str], Path]) -> None:
    file = toml(
        '[vault]\ntimeout = "x"\nauth.token = "t"\n[databases.default]\nrole = "app"\nprobe = "my:probe"\nmin_size = "a"\nkwargs = 3'
    )
    assert set(mistakes()) == {
        f"vault.timeout in {file} is not a number of seconds: give one such as 30 or 30s",
        f"databases.default.probe in {file} is no Python function: pass one as an argument of DatabaseSettings",
        f"databases.default.min_size in {file} is not a whole number: give one such as 4",
        f"databases.default.kwargs in {file} is not a table of names and values: give it as one",
    }


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"a = [1,\n", "which is no valid TOML: "),
        (b"[vault]\naddress = " + SECRET.encode(), "which is no valid TOML: "),
        (b"\xff\xfe", "which is no valid TOML: give a TOML file in UTF-8"),
    ],
)
def test_file_that_is_no_toml(env: Env, tmp_path: Path, content: bytes, what: str) -> None:
    file = tmp_path / "app.toml"
    file.write_bytes(content)
    env(VAULT_PG_CONFIG=str(file))
    (mistake,) = mistakes()
    assert mistake.startswith(f"environment variable VAULT_PG_CONFIG names {file}, {what}")


def test_file_that_is_not_there(env: Env, tmp_path: Path) -> None:
    # Role and token may well be in there, so that nobody is told to give them.
    env(VAULT_PG_CONFIG=str(tmp_path / "none.toml"), VAULT_PG_MIN_SIZE="x")
    assert mistakes() == (
        (
            f"environment variable VAULT_PG_CONFIG names {tmp_path}/none.toml, which does not exist: "
            "name a TOML file that this process can read"
        ),
        "environment variable VAULT_PG_MIN_SIZE is not a whole number: give one such as 4",
    )
    env(VAULT_PG_CONFIG=str(tmp_path))
    assert "which is a directory" in mistakes()[0]


def test_mistakes_of_all_sources_at_once(env: Env, toml: Callable[[str], Path]) -> None:
    file = toml("[vault]\ntimeout = 0\n[databases.default]\nmin_size = 8")
    env(VAULT_PG_MAX_SIZE="6", VAULT_PG_MAXSIZE="6", VAULT_PG_CONNINFO=f"host=db password={SECRET}", VAULT_CACERT="/none/ca.pem")
    assert mistakes(vault={"address": "vault:8200"}, start_timeout=-1, runtimedir="/x") == (
        "environment variable VAULT_PG_MAXSIZE is no setting: did you mean VAULT_PG_MAX_SIZE?",
        NO_TOKEN,
        "argument vault.address is no http or https URL with a host: give a URL such as https://vault.example.com:8200",
        "environment variable VAULT_CACERT names /none/ca.pem, which does not exist: name one that this process can read",
        f"vault.timeout in {file} is 0: give more than 0",
        NO_ROLE,
        "environment variable VAULT_PG_CONNINFO holds a password: take that out, Vault supplies both user and password",
        (
            f"environment variable VAULT_PG_MAX_SIZE is 6, less than databases.default.min_size in {file}, 8: "
            "raise max_size or lower min_size"
        ),
        "argument start_timeout is -1: give more than 0",
        "argument runtimedir is no setting: did you mean runtime_dir?",
    )


def test_default_beside_an_argument_is_called_a_default(env: Env) -> None:
    env(VAULT_TOKEN=SECRET)
    (mistake,) = mistakes(databases={"default": {"role": "app", "min_size": 11}})
    assert mistake.startswith("databases.default.max_size (default) is 10, less than argument databases.default.min_size, 11: ")


def test_role_missing_from_a_named_database(env: Env) -> None:
    env(VAULT_TOKEN=SECRET, VAULT_PG_ROLE="app")
    assert mistakes(databases={"reports": {"max_size": 4}}) == (
        (
            "no database role for 'reports': give databases.reports.role as an argument or in the TOML file, "
            "or put vault_role=… into the conninfo"
        ),
    )


@pytest.mark.parametrize(
    ("given", "mistake"),
    [
        ({"vault": SECRET}, "argument vault is not a table of settings: give it as one"),
        ({"vault": {"auth": SECRET}}, "argument vault.auth is not a table of settings: give it as one"),
        ({"databases": [SECRET]}, "argument databases is not a table of names and values: give it as one"),
        ({"databases": {"default": SECRET}}, "argument databases.default is not a table of settings: give it as one"),
        ({"databases": {"default": {1: SECRET}}}, "argument databases.default.1 is no setting: known are"),
        ({"databases": {"default": {"kwargs": {1: 2}}}}, "argument databases.default.kwargs is not a text"),
        ({"vault": {"auth": {"token": [SECRET]}}}, "argument vault.auth.token is not a text: give it as a string"),
    ],
)
def test_arguments_of_the_wrong_kind(env: Env, given: dict[str, Any], mistake: str) -> None:
    env(VAULT_TOKEN=SECRET, VAULT_PG_ROLE="app")
    (told,) = mistakes(**given)
    assert told.startswith(mistake)


def test_settings_are_frozen_and_do_not_follow_the_environment(env: Env) -> None:
    env(VAULT_TOKEN=SECRET, VAULT_PG_ROLE="app")
    settings = Settings()
    env(VAULT_PG_ROLE="other")
    assert settings.databases["default"].role == "app"
    with pytest.raises(ValueError, match="frozen"):
        settings.start_timeout = 3


def test_rows_describe_every_setting_in_one_line() -> None:
    table = {row.name: row for row in rows()}
    assert len(table) == len(list(rows()))
    assert table["databases.default.max_size"][1:3] == ("VAULT_PG_MAX_SIZE", "10")
    assert table["databases.default.role"][1:3] == ("VAULT_PG_ROLE", "")
    assert table["databases.default.source.kind"].description.endswith(": dynamic, static, file, callable")
    assert table["databases.default.source.path (file)"].variable == "VAULT_PG_SOURCE_PATH"
    assert table["vault.skip_verify"][1:3] == ("VAULT_SKIP_VERIFY", "false")
    assert table["vault.auth.method"] == (
        "vault.auth.method",
        "VAULT_PG_AUTH",
        "token",
        f"How to log in to Vault: {METHOD_NAMES}",
    )
    assert table["vault.auth.secret_id (approle)"].variable == "VAULT_PG_APPROLE_SECRET_ID"
    assert table["databases.default.probe"].variable is None
    for row in table.values():
        assert row.description
        assert "\n" not in row.description
