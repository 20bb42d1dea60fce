"""The throw-away PostgreSQL: passwords count, nothing is left, nothing outlives its process."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tests.servers import DatabaseView
from tests.waiting import until
from vault_pg.dev import DevError, EmbeddedPostgres, binaries

OWNER = """
import os, signal, sys
from vault_pg.dev import EmbeddedPostgres
postgres = EmbeddedPostgres()
postgres.start()
with postgres.admin() as conn:
    print(postgres.port, conn.execute("SHOW data_directory").fetchone()[0], flush=True)
sys.stdin.read()
"""


@pytest.fixture
def person(postgres: EmbeddedPostgres) -> Iterator[str]:
    """A role with the password `right`."""
    with postgres.admin() as conn:
        conn.execute("CREATE ROLE person LOGIN PASSWORD 'right' IN ROLE app_readwrite")
        yield "person"
        conn.execute("DROP ROLE IF EXISTS person")


def log_in(postgres: EmbeddedPostgres, user: str, password: str | None) -> str:
    with psycopg.connect(make_conninfo(postgres.conninfo(), user=user, password=password)) as conn:
        row = conn.execute("SELECT current_user").fetchone()
        assert row is not None
        return str(row[0])


def refusal(postgres: EmbeddedPostgres, user: str, password: str | None) -> str:
    with pytest.raises(psycopg.OperationalError) as refused:
        log_in(postgres, user, password)
    return str(refused.value)


def test_only_the_right_password_logs_in(postgres: EmbeddedPostgres, person: str) -> None:
    assert log_in(postgres, person, "right") == person
    assert "password authentication failed" in refusal(postgres, person, "wrong")
    assert "no password supplied" in refusal(postgres, person, None)


def test_the_superuser_needs_its_password_too(postgres: EmbeddedPostgres) -> None:
    assert log_in(postgres, postgres.admin_user, postgres.admin_password.get_secret_value()) == "postgres"
    assert "password authentication failed" in refusal(postgres, postgres.admin_user, "wrong")
    assert "no password supplied" in refusal(postgres, postgres.admin_user, None)


def test_every_line_of_pg_hba_asks_for_scram(postgres: EmbeddedPostgres) -> None:
    with postgres.admin() as conn:
        methods = {method for (method,) in conn.execute("SELECT auth_method FROM pg_hba_file_rules")}
        sockets = conn.execute("SHOW unix_socket_directories").fetchone()
    assert methods == {"scram-sha-256"}
    assert sockets == ("",)


def test_a_dropped_or_expired_role_cannot_log_in(postgres: EmbeddedPostgres, person: str, database: DatabaseView) -> None:
    database.execute("ALTER ROLE {} VALID UNTIL '2001-01-01'", person)
    assert "password authentication failed" in refusal(postgres, person, "right")
    database.execute("DROP ROLE {}", person)
    assert "password authentication failed" in refusal(postgres, person, "right")


def test_members_of_app_readwrite_use_the_demo_table_and_no_more(postgres: EmbeddedPostgres, person: str) -> None:
    with psycopg.connect(make_conninfo(postgres.conninfo(), user=person, password="right"), autocommit=True) as conn:
        conn.execute("INSERT INTO orders (item) VALUES ('from a test')")
        deleted = conn.execute("DELETE FROM orders WHERE item = 'from a test'")
        assert deleted.rowcount == 1
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("DROP TABLE orders")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("CREATE TABLE mine (n int)")


def test_conninfo_names_the_place_and_nobody(postgres: EmbeddedPostgres) -> None:
    assert postgres.conninfo() == f"host=127.0.0.1 port={postgres.port} dbname=app"
    assert postgres.conninfo("other").endswith("dbname=other")
    password = postgres.admin_password.get_secret_value()
    for shown in (repr(postgres), repr(postgres.admin_conninfo()), str(vars(postgres))):
        assert password not in shown


def test_sessions_of_one_role_are_ended(postgres: EmbeddedPostgres, person: str, database: DatabaseView) -> None:
    with psycopg.connect(make_conninfo(postgres.conninfo(), user=person, password="right"), autocommit=True) as conn:
        assert postgres.terminate_backends("nobody in particular") == 0
        assert conn.execute("SELECT 1").fetchone() == (1,)
        assert postgres.terminate_backends(person) == 1
        with pytest.raises(psycopg.errors.AdminShutdown):
            conn.execute("SELECT 1")
    assert until(lambda: database.sessions(person) == 0)


def test_a_crash_keeps_port_and_data_and_a_stop_removes_them() -> None:
    with EmbeddedPostgres() as postgres:
        port, directory = postgres.port, data_directory(postgres)
        with postgres.admin() as conn:
            conn.execute("INSERT INTO orders (item) VALUES ('kept')")
        postgres.stop(immediate=True)
        assert not postgres.running
        with pytest.raises(psycopg.OperationalError), postgres.admin():
            pass
        for again in (postgres.start, postgres.restart):
            again()
            assert postgres.port == port
            with postgres.admin() as conn:
                assert conn.execute("SELECT count(*) FROM orders WHERE item = 'kept'").fetchone() == (1,)
        assert directory.exists()
    assert not postgres.running
    assert not directory.parent.exists()


def test_the_password_file_is_gone_and_the_log_holds_no_statement(postgres: EmbeddedPostgres) -> None:
    with postgres.admin() as conn, pytest.raises(psycopg.Error):
        conn.execute("CREATE ROLE failing LOGIN PASSWORD 'in-the-statement' nonsense")
    root = data_directory(postgres).parent
    assert not (root / "pwfile").exists()
    log = (root / "server.log").read_text()
    assert "nonsense" in log
    assert "in-the-statement" not in log


def test_it_does_not_outlive_a_killed_process() -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        port, directory = owner.stdout.readline().split()
        assert Path(directory).exists()
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        until(lambda: not listening(int(port)), "PostgreSQL is gone")
        until(lambda: not Path(directory).parent.exists(), "its data are gone")


def test_it_lives_on_when_the_thread_that_started_it_ends() -> None:
    postgres = EmbeddedPostgres()
    starter = threading.Thread(target=postgres.start)
    starter.start()
    starter.join()
    try:
        with postgres.admin() as conn:
            assert conn.execute("SELECT count(*) FROM orders").fetchone() == (1000,)
    finally:
        postgres.stop()


def test_without_programs_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "bundled", lambda: iter(()))
    monkeypatch.setattr(binaries, "installed", lambda: iter(()))
    postgres = EmbeddedPostgres()
    with pytest.raises(DevError, match=re.escape("pip install 'vault_pg[dev]'")):
        postgres.start()
    assert not postgres.running


def test_a_server_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vault_pg.dev.postgres.SETTINGS", {"no_such_setting": "1"})
    postgres = EmbeddedPostgres()
    with pytest.raises(DevError, match="no_such_setting"):
        postgres.start()
    assert not postgres.running


@pytest.mark.skipif(os.geteuid() != 0, reason="only root hands PostgreSQL to another account")
def test_programs_that_the_account_cannot_read_are_copied(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # As a virtual environment below /root is: pytest's own directory is closed to all others.
    programs = next(directory for directory in binaries.bundled() if binaries.usable(directory))
    package = programs.parents[1]
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    for part in package.parent.glob(f"{package.name}*"):
        (closed / part.name).symlink_to(part)
    monkeypatch.setattr(binaries, "bundled", lambda: iter([closed / programs.relative_to(package.parent)]))
    with EmbeddedPostgres() as postgres, postgres.admin() as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)
        assert postgres._programs.is_relative_to(data_directory(postgres).parent / "programs")
        assert (closed.stat().st_mode & 0o777) == 0o700


def data_directory(postgres: EmbeddedPostgres) -> Path:
    with postgres.admin() as conn:
        row = conn.execute("SHOW data_directory").fetchone()
    assert row is not None
    return Path(row[0])


def listening(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
