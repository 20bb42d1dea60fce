"""A throw-away PostgreSQL that asks everyone for a password."""

from __future__ import annotations

import secrets
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg
import tenacity
from psycopg import sql
from psycopg.conninfo import make_conninfo
from pydantic import SecretStr

from vault_pg.dev.binaries import Account, find
from vault_pg.dev.errors import DevError

DATABASE = "app"
SUPERUSER = "postgres"

SETTINGS = {
    # Nothing here has to survive a crash of the machine; commits do survive a crash of PostgreSQL, which tests provoke.
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    # A statement that fails is written to the server's log by default, and CREATE ROLE holds a password.
    "log_min_error_statement": "panic",
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "timezone": "UTC",
    "log_timezone": "UTC",
}

SCHEMA = """
CREATE ROLE app_owner NOLOGIN;
CREATE ROLE app_readwrite NOLOGIN;
ALTER DATABASE app OWNER TO app_owner;
ALTER SCHEMA public OWNER TO app_owner;
SET ROLE app_owner;
GRANT USAGE ON SCHEMA public TO app_readwrite;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO app_readwrite;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE ON SEQUENCES TO app_readwrite;
CREATE TABLE orders (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    item text NOT NULL,
    ordered_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO orders (item) SELECT 'item ' || n FROM generate_series(1, 1000) AS n;
RESET ROLE;
"""
"""The demo table `orders` belongs to `app_owner`; whoever is in `app_readwrite` may use it."""

WATCHDOG = """
read -r word && exit 0
pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null) && kill -QUIT "$pid" && while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
rm -rf "$1"
"""
"""Waits on a pipe that only the creating process holds. End of file without a word means that it was killed: PostgreSQL and its
data go too. (PR_SET_PDEATHSIG would fire at the end of the creating *thread*, and only Linux has it.)"""

START_TIMEOUT = 60.0
STOP_TIMEOUT = 20.0
PORT_TRIES = 5


class ServerEnded(DevError):
    """PostgreSQL ended instead of starting."""


class EmbeddedPostgres:
    """A PostgreSQL server of one's own on a free port of 127.0.0.1, data in a temporary directory, gone at `stop()`.

    Every connection needs a password (SCRAM), the superuser's too: with `trust` neither a password nor VALID UNTIL would be
    checked and no test of credentials would mean anything. It holds a database `app` with a table `orders`, owned by the role
    `app_owner` and open to members of `app_readwrite`. It does not outlive a process that is killed. Not thread-safe.

    `start()` takes a second or two and raises DevError where PostgreSQL's programs are missing or it does not come up.
    """

    host = "127.0.0.1"

    def __init__(self) -> None:
        self.port = 0
        self._account = Account()
        self._password = SecretStr("")
        self._root: Path | None = None
        self._programs = Path()
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<EmbeddedPostgres {self.host}:{self.port} {'running' if self.running else 'stopped'}>"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def conninfo(self, dbname: str = DATABASE) -> str:
        """Where the server is, with neither user nor password: what a service is given."""
        return make_conninfo(host=self.host, port=self.port, dbname=dbname)

    def admin_conninfo(self, dbname: str = DATABASE) -> SecretStr:
        """The superuser's way in, password included."""
        # libpq's PG* variables must not have a say in how the administrator connects.
        known = {"user": SUPERUSER, "sslmode": "disable", "gssencmode": "disable", "connect_timeout": "5"}
        return SecretStr(make_conninfo(self.conninfo(dbname), password=self._password.get_secret_value(), **known))

    @property
    def admin_user(self) -> str:
        return SUPERUSER

    @property
    def admin_password(self) -> SecretStr:
        return self._password

    @contextmanager
    def admin(self, dbname: str = DATABASE) -> Iterator[psycopg.Connection]:
        """A superuser connection in autocommit, closed at the end."""
        with psycopg.connect(self.admin_conninfo(dbname).get_secret_value(), autocommit=True) as conn:
            yield conn

    def start(self) -> None:
        """Start; on the same port and data as before after `stop(immediate=True)`. Does nothing while it runs."""
        if self.running:
            return
        if self._root is not None:
            self._launch(self._root)
            return
        self._account = Account.choose()
        self._root = root = self._account.scratch()
        try:
            self._create(root)
            self._fill()
        except BaseException:
            self.stop()
            raise

    def stop(self, *, immediate: bool = False) -> None:
        """Stop and remove the data; with `immediate` stop as in a crash and keep them for the next `start()`."""
        self._halt(signal.SIGQUIT if immediate else signal.SIGINT)
        if immediate or self._root is None:
            return
        shutil.rmtree(self._root, ignore_errors=True)
        self._root = None
        self._dismiss()

    @contextmanager
    def down(self) -> Iterator[None]:
        """Crashed inside of the block, and back after it on the same port and data."""
        self.stop(immediate=True)
        try:
            yield
        finally:
            self.start()

    def restart(self) -> None:
        """Stop in an orderly way, which ends every session, and start again on the same port and data."""
        self._halt(signal.SIGINT)
        self.start()

    def terminate_backends(self, username: str) -> int:
        """End every session of `username`; how many there were."""
        with self.admin() as conn:
            ended = conn.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", [username])
            return sum(1 for (done,) in ended if done)

    def _create(self, root: Path) -> None:
        self._watch(root)
        self._programs = find(self._account, root)
        self._initdb(root)
        # Someone else may take the port between its choice and its use.
        attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(ServerEnded), stop=tenacity.stop_after_attempt(PORT_TRIES), reraise=True
        )
        for attempt in attempts:
            with attempt:
                self.port = _free_port()
                self._launch(root)

    def _watch(self, root: Path) -> None:
        self._watchdog = subprocess.Popen(
            ["/bin/sh", "-c", WATCHDOG, "sh", str(root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
            **self._account.identity,
        )

    def _dismiss(self) -> None:
        if self._watchdog is not None:
            self._watchdog.communicate(b"done\n")
            self._watchdog = None

    def _initdb(self, root: Path) -> None:
        self._password = SecretStr(secrets.token_urlsafe(24))
        pwfile = root / "pwfile"
        pwfile.touch(mode=0o600)
        pwfile.write_text(self._password.get_secret_value())
        self._account.own(root)
        command = [str(self._programs / "initdb"), "-D", str(root / "data"), "-U", SUPERUSER, "--auth=scram-sha-256"]
        command += [f"--pwfile={pwfile}", "--encoding=UTF8", "--locale=C", "--no-sync"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False, **self._account.identity)
        finally:
            pwfile.unlink()
        if done.returncode != 0:
            raise DevError(f"initdb failed: {done.stderr.strip() or done.stdout.strip()}")

    def _launch(self, root: Path) -> None:
        command = [str(self._programs / "postgres"), "-D", str(root / "data"), "-c", f"port={self.port}"]
        for name, value in SETTINGS.items():
            command += ["-c", f"{name}={value}"]
        with (root / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=root,
                start_new_session=True,  # Ctrl-C in a terminal is for the program, which stops PostgreSQL last.
                **self._account.identity,
            )
        try:
            if not self._answers(self._process):
                self._halt(signal.SIGQUIT)
                raise ServerEnded(f"PostgreSQL did not start; its log ends with: {self._log_tail(root)}")
        except tenacity.RetryError:
            self._halt(signal.SIGQUIT)
            said = self._log_tail(root)
            raise DevError(f"PostgreSQL did not answer within {START_TIMEOUT:.0f} s; its log ends with: {said}") from None

    @tenacity.retry(
        retry=tenacity.retry_if_exception_type(psycopg.OperationalError),
        stop=tenacity.stop_after_delay(START_TIMEOUT),
        wait=tenacity.wait_fixed(0.03),
    )
    def _answers(self, process: subprocess.Popen[bytes]) -> bool:
        """True once it takes a login, False if the process ended before."""
        if process.poll() is not None:
            return False
        with self.admin("postgres"):
            return True

    def _fill(self) -> None:
        with self.admin("postgres") as conn:
            conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
        with self.admin() as conn:
            conn.execute(SCHEMA)

    def _halt(self, order: signal.Signals) -> None:
        if self._process is None:
            return
        for attempt in (order, signal.SIGQUIT, signal.SIGKILL):
            if self._process.poll() is None:
                self._process.send_signal(attempt)
            try:
                self._process.wait(STOP_TIMEOUT)
                break
            except subprocess.TimeoutExpired:
                continue
        self._process = None

    def _log_tail(self, root: Path) -> str:
        log = root / "server.log"
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        return " / ".join(lines[-5:]) or "(empty)"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((EmbeddedPostgres.host, 0))
        return int(probe.getsockname()[1])
