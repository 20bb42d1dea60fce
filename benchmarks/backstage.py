"""Everything but the pool and its clients, in a process of its own: PostgreSQL, the roles, and the count of server connections."""

from __future__ import annotations

import multiprocessing
import secrets
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

import psycopg
import tenacity
from psycopg import sql
from psycopg.conninfo import make_conninfo
from pydantic import SecretStr

from vault_pg.dev import DevError, EmbeddedPostgres
from vault_pg.lease import Credential

NAME = "benchmarks-backstage"
"""application_name of the connections that do not count."""

COUNT = f"""
SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND application_name <> '{NAME}'
"""  # noqa: S608 - a constant of our own
"""Every other session of the server, those that are logging in or ending included; the server has no other user."""

WATCH = f"""
CREATE FUNCTION pg_temp.watch(samples int, every float, OUT peak int) LANGUAGE plpgsql AS $$
DECLARE
    sessions int;
BEGIN
    peak := 0;
    FOR turn IN 1..samples LOOP
        PERFORM pg_stat_clear_snapshot();
        sessions := ({COUNT});
        peak := greatest(peak, sessions);
        PERFORM pg_sleep(every);
    END LOOP;
END $$
"""
"""Samples in the server, where a busy client can't hold it up."""

SAMPLE_EVERY = 0.003
SAMPLES_A_CALL = 30
QUIET_TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class Site:
    """Where the server is, with neither user nor password, and its version."""

    conninfo: str
    version: str


@dataclass(frozen=True, slots=True)
class Sightings:
    """Server connections at the busiest of the samples."""

    peak: int
    samples: int


class BenchmarkError(Exception):
    """A process that a benchmark needs has ended."""


class Watch:
    """Counts the server's connections every few milliseconds, in a thread that only waits for the server."""

    def __init__(self, conn: psycopg.Connection[Any]) -> None:
        self._conn = conn
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._peak = self._calls = 0
        conn.execute(WATCH)

    def start(self) -> None:
        self._stop.clear()
        self._peak = self._calls = 0
        self._thread = threading.Thread(target=self._run, name="watch")
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            (seen,) = self._conn.execute("SELECT pg_temp.watch(%s, %s)", [SAMPLES_A_CALL, SAMPLE_EVERY]).fetchone() or (0,)
            self._peak = max(self._peak, seen)
            self._calls += 1

    def stop(self) -> Sightings:
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
            self._thread = None
        return Sightings(self._peak, self._calls * SAMPLES_A_CALL)


class Crew:
    """What the process does when it is asked. Runs there; `Backstage` asks."""

    def __init__(self, server: EmbeddedPostgres, stack: ExitStack) -> None:
        self._server = server
        self._admin = stack.enter_context(server.admin())
        watching = stack.enter_context(server.admin())
        for conn in (self._admin, watching):
            conn.execute("SELECT set_config('application_name', %s, false)", [NAME])
        self._watch = Watch(watching)
        stack.callback(self._watch.stop)
        self._number = 0
        self._doomed = deque[tuple[float, str]]()

    def site(self) -> Site:
        conninfo = make_conninfo(self._server.conninfo(), application_name="benchmarks")
        return Site(conninfo, str(self._admin.info.parameter_status("server_version")))

    def issue(self) -> Credential:
        self._number += 1
        credential = Credential(f"bench-{self._number}", SecretStr(secrets.token_urlsafe(24)))
        self._admin.execute(
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD {} IN ROLE app_readwrite").format(
                sql.Identifier(credential.username), sql.Literal(credential.password.get_secret_value())
            )
        )
        return credential

    def drop(self, username: str, after: float) -> None:
        self._doomed.append((time.monotonic() + after, username))

    @tenacity.retry(
        retry=tenacity.retry_if_result(bool), stop=tenacity.stop_after_delay(QUIET_TIMEOUT), wait=tenacity.wait_fixed(0.02)
    )
    def quiet(self) -> int:
        """Return when nobody is connected any more."""
        (sessions,) = self._admin.execute(COUNT).fetchone() or (0,)
        return int(sessions)

    def watch(self) -> None:
        self.quiet()
        self._watch.start()

    def seen(self) -> Sightings:
        return self._watch.stop()

    def serve(self, desk: Connection) -> None:
        """Do what is asked until nobody is left to ask."""
        while True:
            if not desk.poll(self._doomed[0][0] - time.monotonic() if self._doomed else None):
                _, username = self._doomed.popleft()
                self._admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(username)))
                continue
            try:
                name, arguments = desk.recv()
            except EOFError:
                return
            desk.send(getattr(self, name)(*arguments))


def _work(desk: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who asks; the end of the pipe is the end here
    try:
        with ExitStack() as stack:
            Crew(stack.enter_context(EmbeddedPostgres()), stack).serve(desk)
    except DevError as error:
        sys.exit(f"benchmarks: {error}")


class Desk:
    """The other end: asks, and waits for the answer. One at a time; handed to each measured process in turn."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def _ask(self, name: str, *arguments: object) -> Any:
        try:
            self._pipe.send((name, arguments))
            return self._pipe.recv()
        except (EOFError, BrokenPipeError):
            raise BenchmarkError("the process with PostgreSQL ended; why stands above") from None

    def site(self) -> Site:
        site: Site = self._ask("site")
        return site

    def issue(self) -> Credential:
        """A new role that may use the table `orders`, with a random password."""
        credential: Credential = self._ask("issue")
        return credential

    def drop(self, username: str, after: float) -> None:
        """Drop the role in `after` seconds, whoever still uses it. Returns at once."""
        self._ask("drop", username, after)

    def watch(self) -> None:
        """Wait until nobody is connected, then count connections until `seen()`."""
        self._ask("watch")

    def seen(self) -> Sightings:
        sightings: Sightings = self._ask("seen")
        return sightings


SPAWN = multiprocessing.get_context("spawn")
ENDING = 30.0


class Backstage:
    """The process behind the scenes, as a context manager that yields its desk; starts measured processes too."""

    def __init__(self) -> None:
        here, there = SPAWN.Pipe()
        self.desk = Desk(here)
        self._pipe, self._there = here, there
        self._process = SPAWN.Process(target=_work, args=(there,), name="backstage")

    def __enter__(self) -> Self:
        self._process.start()
        self._there.close()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pipe.close()
        self._process.join(ENDING)

    def measured(self, task: Callable[..., Any], *arguments: object) -> Any:
        """What `task(desk, *arguments)` returns in a fresh process. Raises BenchmarkError if it ends without an answer."""
        here, there = SPAWN.Pipe(duplex=False)
        process = SPAWN.Process(target=_answer, args=(there, task, self.desk, *arguments), name="measured")
        process.start()
        there.close()
        try:
            return here.recv()
        except EOFError:
            raise BenchmarkError("a measured process ended without a result; why stands above") from None
        finally:
            here.close()
            process.join(ENDING)
            if process.is_alive():
                process.terminate()


def _answer(answer: Connection, task: Callable[..., Any], desk: Desk, *arguments: object) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a word
    answer.send(task(desk, *arguments))
