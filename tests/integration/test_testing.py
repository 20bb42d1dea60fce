"""`vault_pg.testing` as its users have it: in a pytest run of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.waiting import LONG

EXAMPLE = Path(__file__).parents[2] / "examples" / "testing"
CONFTEST = 'pytest_plugins = ["vault_pg.testing"]\n'
ALONE = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
"""With no plugin but those that the project names."""


def run(directory: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run pytest in `directory` with the variables of a user who has a Vault of their own; on the dev Vault unless `variables` say else."""
    ours = ("PYTEST_", "VAULT_PG_TEST_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    theirs = {
        "VAULT_ADDR": "http://127.0.0.1:1",
        "VAULT_NAMESPACE": "theirs",
        "PGHOST": "nowhere.invalid",
        "PGSSLMODE": "verify-full",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(
        command,
        cwd=directory,
        env=environment | theirs | variables,
        capture_output=True,
        text=True,
        timeout=2 * LONG,
        check=False,
    )


def project(directory: Path, test: str, *, conftest: str = CONFTEST) -> Path:
    (directory / "conftest.py").write_text(conftest)
    (directory / "test_it.py").write_text(textwrap.dedent(test))
    (directory / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    return directory


def test_the_example_passes_wherever_it_is(tmp_path: Path) -> None:
    there = tmp_path / "project"
    shutil.copytree(EXAMPLE, there, ignore=shutil.ignore_patterns("__pycache__"))
    done = run(there)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def test_mounts_environment_and_faults_end_with_their_test(tmp_path: Path) -> None:
    project(
        tmp_path,
        """
        import asyncio
        import os

        import pytest
        import requests

        from vault_pg import LeaseManager, Settings
        from vault_pg.testing import RoleSpec

        def test_a_service_that_reads_its_environment(vault_pg_environment, vault_pg_vault):
            vault_pg_environment(default_ttl=60, max_ttl=120, VAULT_PG_MAX_SIZE="3")
            settings = Settings()
            assert settings.databases["default"].max_size == 3

            async def serve():
                async with LeaseManager() as manager, manager.get_pool().connection() as conn:
                    lease = manager.status().databases[0].lease
                    cursor = await conn.execute("SELECT count(*) FROM orders")
                    return lease, await cursor.fetchone()

            lease, row = asyncio.run(serve())
            assert row == (1000,)

        def test_roles_of_ones_own(vault_pg_mount, vault_pg_settings):
            mount = vault_pg_mount(roles={"reader": RoleSpec(default_ttl=5, max_ttl=9), "writer": RoleSpec()})
            settings = vault_pg_settings(mount, "reader", max_size=2)
            assert settings.databases["default"].role == "reader"
            client = mount.client()
            assert client.secrets.database.generate_credentials("reader", mount_point=mount.path)["lease_duration"] == 5
            client.adapter.close()
            assert len(mount.leases("reader")) == 1

        def test_vault_is_left_in_trouble(vault_pg_settings, vault_pg_faults, vault_pg_vault):
            vault_pg_settings()
            vault_pg_faults.seal()
            vault_pg_faults.garbage()
            vault_pg_faults.stop()

        def test_and_has_recovered(vault_pg_vault, vault_pg_postgres):
            assert os.environ["VAULT_NAMESPACE"] == "theirs"
            assert requests.get(f"{vault_pg_vault.address}/v1/sys/health", timeout=10).json()["sealed"] is False
            with vault_pg_postgres.admin() as conn:
                assert conn.execute("SELECT count(*) FROM pg_roles WHERE rolname LIKE 'v-%'").fetchone() == (0,)
        """,
    )
    done = run(tmp_path, **ALONE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout


def test_a_conftest_may_import_it_before_pytest_loads_it(tmp_path: Path) -> None:
    project(
        tmp_path, "def test_it(vault_pg_vault): assert vault_pg_vault.running", conftest=f"import vault_pg.testing\n{CONFTEST}"
    )
    done = run(tmp_path, **ALONE)
    assert done.returncode == 0, done.stdout + done.stderr


def test_without_the_plugin_line_nobodys_pytest_loads_it(tmp_path: Path) -> None:
    test = "import sys\ndef test_it(): assert not [name for name in sys.modules if name.startswith('vault_pg')]"
    done = run(project(tmp_path, test, conftest=""), **ALONE)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("import sys; sys.modules['psycopg'] = None", "vault_pg.testing lacks a library"),
        ("import vault_pg.dev.binaries as b\nb.bundled = b.installed = lambda: iter(())", "no PostgreSQL programs found"),
    ],
    ids=["no psycopg", "no PostgreSQL"],
)
def test_what_is_missing_is_said_in_a_sentence(tmp_path: Path, missing: str, said: str) -> None:
    done = run(project(tmp_path, "def test_it(vault_pg_postgres): pass", conftest=f"{missing}\n{CONFTEST}"), **ALONE)
    text = done.stdout + done.stderr
    assert done.returncode != 0
    assert said in text
    assert "pip install 'vault_pg[dev]'" in text
    assert "Traceback" not in text


def test_a_real_vault_that_cannot_be_run_is_named(tmp_path: Path) -> None:
    done = run(project(tmp_path, "def test_it(vault_pg_vault): pass"), **ALONE, VAULT_PG_TEST_VAULT="/nowhere/vault")
    assert "the real Vault /nowhere/vault cannot be run: No such file or directory; correct its path" in done.stdout


def test_a_real_vault_that_ends_at_once_is_quoted(tmp_path: Path) -> None:
    program = tmp_path / "vault"
    program.write_text('#!/bin/sh\necho "no $BAO_ADDR$VAULT_ADDR with $VAULT_DEV_ROOT_TOKEN_ID" >&2\nexit 1\n')
    program.chmod(0o755)
    others = {"VAULT_ADDR": "http://elsewhere", "BAO_ADDR": "http://elsewhere", "BAO_DEV_ROOT_TOKEN_ID": "mine"}
    done = run(project(tmp_path, "def test_it(vault_pg_vault): pass"), **ALONE, **others, VAULT_PG_TEST_VAULT=str(program))
    assert "the real Vault ended instead of starting: no  with ***" in done.stdout.replace("\n", " ")


def test_pytest_is_asked_for_by_this_module_alone() -> None:
    program = """
        import importlib, pkgutil, sys
        sys.modules["pytest"] = None
        import vault_pg
        for module in pkgutil.walk_packages(vault_pg.__path__, "vault_pg."):
            if module.name != "vault_pg.testing" and not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
