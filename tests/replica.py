"""A replica of the tests' PostgreSQL that can be made to fall behind."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.waiting import until
from vault_pg.dev import DevError, EmbeddedPostgres


class Replica(EmbeddedPostgres):
    """A hot standby that streams from `primary`, on a port of its own."""

    def __init__(self, primary: EmbeddedPostgres) -> None:
        super().__init__()
        self._primary = primary

    def _initdb(self, root: Path) -> None:
        program = self._programs / "pg_basebackup"
        if not program.exists():
            pytest.skip("needs pg_basebackup, which these programs of PostgreSQL lack")
        self._password = self._primary.admin_password
        command = [str(program), "-D", str(root / "data"), "-d", self._primary.admin_conninfo().get_secret_value()]
        command += ["--write-recovery-conf", "--checkpoint=fast", "--no-sync"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False, **self._account.identity)
        if done.returncode:
            raise DevError(f"pg_basebackup failed: {done.stderr.strip()}")

    def _fill(self) -> None:
        """All that the primary has is there."""

    @contextmanager
    def behind(self) -> Iterator[None]:
        """Inside of the block nothing that happens on the primary arrives, and after it all of it does."""
        with self.admin() as conn:
            conn.execute("select pg_wal_replay_pause()")

            def paused() -> bool:
                return conn.execute("select pg_get_wal_replay_pause_state()").fetchone() == ("paused",)

            until(paused, "replay is paused")
            try:
                yield
            finally:
                conn.execute("select pg_wal_replay_resume()")

    def refused(self, username: str) -> bool:
        """Whether it has refused a login of that name."""
        assert self._root is not None
        return f'password authentication failed for user "{username}"' in (self._root / "server.log").read_text()
