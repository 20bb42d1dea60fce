"""The examples and what compose.yaml makes of them, as far as this machine can run it."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests import leaks
from tests.servers import REAL_VAULT, DatabaseView, VaultServer, client_of
from tests.waiting import LONG, until
from vault_pg.dev import EmbeddedPostgres

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
DATABASE = "shop"
ROLES = ("shop_owner", "shop_readwrite")


def compose_command() -> list[str] | None:
    """`docker compose` or `docker-compose`, whichever this machine has."""
    for command in (["docker", "compose"], ["docker-compose"], ["podman-compose"]):
        if shutil.which(command[0]) and subprocess.run([*command, "version"], capture_output=True, check=False).returncode == 0:
            return command
    return None


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    yaml = pytest.importorskip("yaml", reason="needs PyYAML")
    return dict(yaml.safe_load((ROOT / "compose.yaml").read_text()))


@pytest.fixture(scope="module")
def shop(postgres: EmbeddedPostgres) -> Iterator[str]:
    """A database made by examples/schema.sql; its conninfo."""
    with postgres.admin("postgres") as conn:
        conn.execute(f"CREATE DATABASE {DATABASE}".encode())
    try:
        with postgres.admin(DATABASE) as conn:
            conn.execute((EXAMPLES / "schema.sql").read_bytes())
        yield postgres.conninfo(DATABASE)
    finally:
        with postgres.admin("postgres") as conn:
            conn.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)".encode())
            for role in ROLES:
                conn.execute(f"DROP ROLE IF EXISTS {role}".encode())


@pytest.fixture(scope="module")
def vault_in_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PATH with a `vault` command: the real one, or our stand-in."""
    command = tmp_path_factory.mktemp("bin") / "vault"
    if REAL_VAULT:
        program = shutil.which(REAL_VAULT)
        assert program is not None, f"{REAL_VAULT} is no program"
        command.symlink_to(Path(program).resolve())
    else:
        stand_in = Path(__file__).with_name("vault_command.py")
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{stand_in}" "$@"\n')
        command.chmod(0o755)
    return f"{command.parent}{os.pathsep}{os.environ['PATH']}"


@pytest.fixture(scope="module")
def approle(
    shop: str, postgres: EmbeddedPostgres, vault: VaultServer, vault_in_path: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """What examples/provision.sh leaves for the service to log in with, after two runs."""
    secret_id = tmp_path_factory.mktemp("approle") / "secret_id"
    operator = {
        "PATH": vault_in_path,
        "HOME": str(tmp_path_factory.mktemp("home")),
        "VAULT_ADDR": vault.address,
        "VAULT_TOKEN": vault.root_token.get_secret_value(),
        "POSTGRES_ADDRESS": f"{postgres.host}:{postgres.port}",
        "POSTGRES_PASSWORD": postgres.admin_password.get_secret_value(),
        "ROLE_ID": "shop-service",
        "SECRET_ID_FILE": str(secret_id),
    }
    try:
        for _ in range(2):
            provision(operator)
        with leaks.watched(lambda: [secret_id.read_text()] if secret_id.exists() else []):
            yield secret_id
    finally:
        root = client_of(vault)
        root.sys.revoke_force("database/")
        root.sys.disable_secrets_engine("database")
        root.sys.disable_auth_method("approle")
        root.sys.delete_policy("shop")
        root.adapter.close()


@pytest.fixture
def service_environment(shop: str, vault: VaultServer, approle: Path, tmp_path: Path) -> dict[str, str]:
    """What compose.yaml gives to the service."""
    return {
        "PATH": os.environ["PATH"],
        "VAULT_ADDR": vault.address,
        "VAULT_PG_AUTH": "approle",
        "VAULT_PG_APPROLE_ROLE_ID": "shop-service",
        "VAULT_PG_APPROLE_SECRET_ID_FILE": str(approle),
        "VAULT_PG_ROLE": "shop",
        "VAULT_PG_CONNINFO": shop,
        "VAULT_PG_RUNTIME_DIR": str(tmp_path / "run"),
        "PYTHONUNBUFFERED": "1",
    }


def provision(environment: Mapping[str, str]) -> None:
    done = subprocess.run(
        ["/bin/sh", str(EXAMPLES / "provision.sh")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=LONG,
    )
    assert done.returncode == 0, leaks.hide(done.stderr)


def test_only_its_owner_can_read_the_secret_id(approle: Path) -> None:
    assert stat.S_IMODE(approle.stat().st_mode) == 0o600


def test_the_script_runs_and_leaves_nothing(service_environment: Mapping[str, str], database: DatabaseView) -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / "script.py"],
        env=service_environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=LONG,
    )

    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.startswith("0 orders, counted as v-approle-shop-")
    assert database.roles("v-approle-shop-%") == set()


def test_the_service_takes_orders_until_sigterm_and_leaves_nothing(
    service_environment: Mapping[str, str], database: DatabaseView
) -> None:
    with subprocess.Popen(
        [sys.executable, EXAMPLES / "service.py"],
        env=service_environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as service:
        assert service.stdout is not None
        assert service.stderr is not None
        said = [service.stdout.readline(), service.stdout.readline()]
        status = subprocess.run(
            [sys.executable, "-c", "from vault_pg.cli import main; main()", "status"],
            env=service_environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=LONG,
        )
        service.send_signal(signal.SIGTERM)
        service.wait(LONG)
        errors = service.stderr.read()

    assert [line.partition(" taken as v-approle-shop-")[0] for line in said] == ["order 1", "order 2"]
    assert (status.returncode, status.stderr) == (0, "")
    assert "role database/shop" in status.stdout
    assert (errors, service.returncode) == ("", 128 + signal.SIGTERM)
    assert database.roles("v-approle-shop-%") == set()
    until(lambda: database.sessions("v-approle-shop-%") == 0, "the sessions of the service end")


def test_without_settings_the_examples_say_in_one_line_what_is_missing(tmp_path: Path) -> None:
    for example in ("script.py", "service.py"):
        done = subprocess.run(
            [sys.executable, EXAMPLES / example],
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
            timeout=LONG,
        )
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1
        assert "VAULT_PG_ROLE" in done.stderr


def test_compose_names_the_services_and_who_waits_for_whom(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert set(services) == {"postgres", "vault", "provision", "service"}
    assert services["postgres"]["image"] == "${POSTGRES_IMAGE:-postgres:17}"
    assert services["vault"]["image"] == services["provision"]["image"] == "${VAULT_IMAGE:-hashicorp/vault:1.20}"
    assert {"postgres", "vault", "service"} == {name for name, service in services.items() if "healthcheck" in service}
    assert services["provision"]["depends_on"] == {name: {"condition": "service_healthy"} for name in ("postgres", "vault")}
    assert services["service"]["depends_on"] == {"provision": {"condition": "service_completed_successfully"}}


def test_compose_gives_the_service_neither_the_root_token_nor_a_password(compose: dict[str, Any]) -> None:
    environment = compose["services"]["service"]["environment"]
    assert set(environment) == {
        "VAULT_ADDR",
        "VAULT_PG_AUTH",
        "VAULT_PG_APPROLE_ROLE_ID",
        "VAULT_PG_APPROLE_SECRET_ID_FILE",
        "VAULT_PG_ROLE",
        "VAULT_PG_CONNINFO",
    }
    assert environment["VAULT_PG_CONNINFO"] == "host=postgres dbname=shop"


def test_compose_gives_the_provisioner_what_its_script_asks_for(compose: dict[str, Any]) -> None:
    given = compose["services"]["provision"]["environment"]
    script = (EXAMPLES / "provision.sh").read_text()
    asked = {line.split("{")[1].split(":")[0] for line in script.splitlines() if line.startswith(': "${')}

    assert asked == {"POSTGRES_ADDRESS", "POSTGRES_PASSWORD", "ROLE_ID", "SECRET_ID_FILE"}
    assert asked <= set(given)
    assert given["ROLE_ID"] == compose["services"]["service"]["environment"]["VAULT_PG_APPROLE_ROLE_ID"]
    assert given["SECRET_ID_FILE"] == compose["services"]["service"]["environment"]["VAULT_PG_APPROLE_SECRET_ID_FILE"]


def test_files_that_compose_mounts_and_builds_from_exist(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in compose["volumes"] or (ROOT / source).is_file()
    build = compose["services"]["service"]["build"]
    dockerfile = (ROOT / build["dockerfile"]).read_text()
    copied = [word for line in dockerfile.splitlines() if line.startswith("COPY") for word in line.split()[1:-1]]
    assert copied
    assert all((ROOT / build["context"] / source).exists() for source in copied)


def test_docker_compose_takes_the_file() -> None:
    command = compose_command()
    if command is None:
        pytest.skip("neither `docker compose` nor `docker-compose` is on this machine")
    done = subprocess.run([*command, "config", "--quiet"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=LONG)
    assert (done.stderr, done.returncode) == ("", 0)


@pytest.mark.slow
def test_docker_compose_runs_the_service() -> None:
    command = compose_command()
    if command is None:
        pytest.skip("neither `docker compose` nor `docker-compose` is on this machine")
    if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no container engine runs on this machine")
    project = [*command, "--project-name", f"vault-pg-test-{os.getpid()}"]
    environment = {**os.environ, "VAULT_PORT": "0", "LEASE_TTL": "10s", "LEASE_MAX_TTL": "20s"}
    up = subprocess.run(
        [*project, "up", "--build", "--detach", "--wait"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    try:
        if up.returncode != 0 and any(word in up.stderr for word in ("pull access", "no such host", "i/o timeout", "TLS")):
            pytest.skip("the images can't be had from here")
        assert up.returncode == 0, up.stderr

        def rotated() -> bool:
            said = subprocess.run([*project, "logs", "service"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
            return len({line.rpartition(" taken as ")[2] for line in said.splitlines() if " taken as " in line}) > 1

        until(rotated, "the service takes orders with a second credential")
    finally:
        subprocess.run([*project, "down", "--volumes"], cwd=ROOT, env=environment, capture_output=True, check=False)
