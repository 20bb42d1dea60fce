"""The commands as a shell runs them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests import leaks
from tests.waiting import LONG, until
from vault_pg.cli import demo
from vault_pg.cli.app import Auth
from vault_pg.cli.verdict import Plan
from vault_pg.dev import DevVault, LoginMethod
from vault_pg.manager.endpoint import StatusEndpoint
from vault_pg.manager.status import DatabaseStatus, Health, LeaseStatus, NextStep, PoolStatus, Status, VaultStatus
from vault_pg.version import __version__

COMMAND = [sys.executable, "-c", "from vault_pg.cli import main; main()"]
NOBODY = 65534

MEANT_FOR_OTHER_SERVERS = {
    "PGSSLMODE": "verify-full",
    "VAULT_NAMESPACE": "other",
    "VAULT_PG_BUILD_TIMEOUT": "0.001",
    "HTTP_PROXY": "http://127.0.0.1:9",
}


def snapshot(health: Health = "healthy") -> Status:
    now = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
    database = DatabaseStatus(
        name="default",
        mount="database",
        role="app",
        state="serving",
        lease=LeaseStatus(
            id="database/creds/app/x1",
            username="v-app-1",
            issued_at=now,
            ttl_seconds=3600,
            remaining_seconds=3000.5,
            renewable=True,
            renewals=2,
        ),
        next=NextStep(action="renew", in_seconds=800.1, why="0.55 of the TTL"),
        pool=PoolStatus(generation=3, size=6, in_use=2, waiting=0, max_size=10),
        rotations=2,
        last_error=None,
    )
    vault = VaultStatus(address="https://vault:8200", reachable=True, token_remaining_seconds=1700)
    return Status(pid=os.getpid(), health=health, started_at=now, vault=vault, databases=(database,))


@contextmanager
def serving(directory: Path, *statuses: Status) -> Iterator[None]:
    """Endpoints with these snapshots, in a thread of their own."""
    ready, end = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        endpoints = [StatusEndpoint(partial(Status.model_copy, status), directory) for status in statuses]
        for endpoint in endpoints:
            await endpoint.start()
        ready.set()
        await end.wait()
        for endpoint in endpoints:
            await endpoint.close()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert ready.wait(LONG)
        yield
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join(LONG)
        loop.close()


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VAULT_PG_RUNTIME_DIR", str(tmp_path / "run"))
    return tmp_path / "run"


def vault_pg(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False, timeout=LONG)


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process:
        try:
            yield process
        finally:
            process.kill()


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def ended(process: subprocess.Popen[str], order: signal.Signals) -> tuple[str, str, int]:
    """What it printed after the signal, on stdout and stderr, and its exit code."""
    process.send_signal(order)
    output, errors = process.communicate(timeout=LONG)
    return output, errors, process.returncode


def is_closed(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


# -- help


def test_help_names_the_commands() -> None:
    done = vault_pg("--help")

    assert done.returncode == 0
    assert all(command in done.stdout for command in ("status", "dev", "demo"))


def test_help_loads_nothing_that_is_slow() -> None:
    program = (
        "import sys\nfrom vault_pg.cli import main\nsys.argv[1:] = ['--help']\n"
        "try: main()\nexcept SystemExit: pass\nprint(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=LONG)

    loaded = {name.partition(".")[0] for name in done.stderr.split()}
    assert "typer" in loaded
    assert not loaded & {"hvac", "psycopg", "psycopg_pool", "requests", "structlog", "pydantic", "tenacity"}


def test_help_shows_the_name_to_install_and_the_exit_codes() -> None:
    assert "vault_pg[dev]" in vault_pg("dev", "--help").stdout
    shown = " ".join(vault_pg("status", "--help").stdout.split())
    assert all(
        code in shown
        for code in ("0 healthy", "1 degraded", "2 critical", "3 nothing", "4 nobody", "64 wrong usage", "70 a", "74 the")
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [["status"], ["status", "--json"], ["status", "--watch"], ["--version"]])
def test_a_full_disk_is_told_in_one_sentence(arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*COMMAND, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=LONG)

    assert (done.returncode, done.stderr) == (74, "vault-pg: the output cannot be written: No space left on device\n")


def test_version() -> None:
    assert vault_pg("--version").stdout == f"vault-pg {__version__}\n"


# -- status


def test_status_says_where_it_looked_when_nothing_runs(runtime: Path) -> None:
    done = vault_pg("status")

    assert done.stdout == f"nothing runs: no manager of this user has a status socket in {runtime}\n"
    assert (done.stderr, done.returncode) == ("", 3)
    assert not runtime.exists()


def test_status_json_of_nothing(runtime: Path) -> None:
    done = vault_pg("status", "--json")

    assert json.loads(done.stdout) == {"managers": []}
    assert (done.stderr, done.returncode) == ("", 3)


@pytest.mark.parametrize(("health", "code"), [("healthy", 0), ("degraded", 1), ("critical", 2)])
def test_status_json_is_what_the_manager_says(runtime: Path, health: Health, code: int) -> None:
    status = snapshot(health)
    with serving(runtime, status):
        done = vault_pg("status", "--json")

    assert json.loads(done.stdout) == {"managers": [json.loads(status.model_dump_json())]}
    assert (done.stderr, done.returncode) == ("", code)


def test_status_shows_every_manager_and_the_worst_decides(runtime: Path) -> None:
    with serving(runtime, snapshot(), snapshot("critical")):
        done = vault_pg("status")

    assert done.returncode == 2
    assert "● healthy" in done.stdout
    assert "● critical" in done.stdout
    assert "renew in 13 min: 0.55 of the TTL" in done.stdout


def test_status_where_the_terminal_has_no_unicode(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    with serving(runtime, snapshot()):
        done = vault_pg("status")

    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.startswith("* healthy  pid ")


def test_status_names_a_process_that_does_not_answer(runtime: Path) -> None:
    runtime.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as hung:
        hung.bind(str(runtime / f"{os.getpid()}-1.sock"))
        hung.listen()
        plain, as_json = vault_pg("status"), vault_pg("status", "--json")

    assert (plain.returncode, as_json.returncode) == (1, 1)
    assert f"pid {os.getpid()} lives but gives no status" in plain.stdout
    assert json.loads(as_json.stdout) == {"managers": []}
    assert as_json.stderr == f"vault-pg: the manager of process {os.getpid()} lives but does not answer\n"


def test_status_refuses_a_directory_that_cannot_be_trusted(runtime: Path) -> None:
    runtime.symlink_to(runtime.parent)
    done = vault_pg("status")

    assert done.returncode == 4
    assert done.stderr == (
        f"vault-pg: status directory {runtime} is a symbolic link: "
        "set VAULT_PG_RUNTIME_DIR to a directory of its own (one that does not exist is made)\n"
    )


def test_nobody_else_can_read_the_status(runtime: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can try it as somebody else")
    with serving(runtime, snapshot()):
        (socket_file,) = runtime.iterdir()
        for path in (runtime, socket_file):
            done = subprocess.run(
                ["/bin/ls", str(path)], user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True, check=False
            )
            assert done.returncode != 0
            assert b"ermission denied" in done.stderr


def test_watch_prints_a_line_each_time_until_ctrl_c(runtime: Path) -> None:
    with serving(runtime, snapshot()), started("status", "--watch", "--interval", "0.1") as process:
        lines = [line_of(process) for _ in range(2)]
        _, errors, code = ended(process, signal.SIGINT)

    assert (errors, code) == ("", 0)
    for line in lines:
        assert f"pid={os.getpid()} health=healthy database=default state=serving lease=3000s/3600s" in line


def test_watch_json_prints_an_object_a_line(runtime: Path) -> None:
    with serving(runtime, snapshot()), started("status", "--watch", "--json", "--interval", "0.1") as process:
        lines = [json.loads(line_of(process)) for _ in range(2)]
        ended(process, signal.SIGINT)

    assert [line["managers"][0]["pid"] for line in lines] == [os.getpid()] * 2


# -- errors


def test_an_unexpected_error_shows_neither_its_text_nor_a_traceback() -> None:
    program = (
        "import sys, vault_pg.cli.status as status\nfrom vault_pg.cli import main\nsys.argv[1:] = ['status']\n"
        "def fail(**_): raise ValueError('postgresql://user:hunter2@db')\nstatus.run = fail\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=LONG)

    assert (done.returncode, done.stdout) == (os.EX_SOFTWARE, "")
    assert done.stderr.startswith("vault-pg: unexpected ValueError at __main__:4;")
    assert "hunter2" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", ["dev", "demo"])
def test_a_max_ttl_below_the_ttl_is_refused(command: str) -> None:
    done = vault_pg(command, "--ttl", "10", "--max-ttl", "5")

    assert (done.returncode, done.stdout) == (os.EX_USAGE, "")
    assert done.stderr == "vault-pg: --max-ttl 5 is less than --ttl 10: raise --max-ttl or lower --ttl\n"


@pytest.mark.parametrize(
    "arguments",
    [["demo", "--clients", "0"], ["demo", "--ttl", "x"], ["dev", "--port", "70000"], ["nope"], ["status", "--watch", "soon"]],
)
def test_bad_options_are_usage_errors(arguments: list[str]) -> None:
    done = vault_pg(*arguments)

    assert (done.returncode, done.stdout) == (os.EX_USAGE, "")
    assert "Traceback" not in done.stderr


# -- dev


def exported(process: subprocess.Popen[str]) -> dict[str, str]:
    variables = dict(json.loads(line_of(process)))
    leaks_of_it = [variables[name] for name in ("VAULT_TOKEN", "VAULT_DEV_ROOT_TOKEN_ID") if name in variables]
    with leaks.watched(lambda: leaks_of_it):
        return variables


@pytest.mark.parametrize("order", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_dev_runs_until_a_signal_and_leaves_nothing(order: signal.Signals) -> None:
    with started("dev", "--json") as process:
        variables = exported(process)
        ports = [int(variables["VAULT_ADDR"].rpartition(":")[2]), int(conninfo(variables)["port"])]
        assert not any(is_closed(port) for port in ports)

        output, errors, code = ended(process, order)

    assert (output, code) == ("", 0)
    assert errors.splitlines()[-1] == "VAULT_DEV_ROOT_TOKEN_ID everything."
    assert all(is_closed(port) for port in ports)


def conninfo(variables: dict[str, str]) -> dict[str, Any]:
    return psycopg.conninfo.conninfo_to_dict(variables["VAULT_PG_CONNINFO"])


def test_dev_prints_lines_that_a_shell_takes() -> None:
    with started("dev") as process:
        lines = [line_of(process) for _ in range(6)]
        ended(process, signal.SIGTERM)
    shell = subprocess.run(
        ["/bin/sh", "-c", f"{''.join(lines)}\nprintf %s \"$VAULT_PG_CONNINFO\""],
        capture_output=True, text=True, check=True, timeout=LONG,
    )  # fmt: skip

    assert all(line.startswith("export VAULT_") for line in lines)
    assert conninfo({"VAULT_PG_CONNINFO": shell.stdout}).keys() == {"host", "port", "dbname"}


def test_dev_runs_a_command_with_its_variables_and_no_others_of_that_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    monkeypatch.setenv("VAULT_NAMESPACE", "other")
    program = (
        "import asyncio, os, vault_pg\n"
        "async def main():\n"
        "    async with vault_pg.connect() as conn:\n"
        "        print(await (await conn.execute('SELECT count(*) FROM orders')).fetchone())\n"
        "asyncio.run(main())\nprint(os.environ.get('PGSSLMODE'), os.environ.get('VAULT_NAMESPACE'))\nraise SystemExit(7)"
    )
    done = vault_pg("dev", sys.executable, "-c", program)

    assert (done.stdout, done.stderr, done.returncode) == ("(1000,)\nNone None\n", "", 7)


QUERY = (
    "import asyncio, vault_pg\n"
    "async def main():\n"
    "    async with vault_pg.connect() as conn:\n"
    "        print(await (await conn.execute('select session_user, count(*) from orders')).fetchone())\n"
    "asyncio.run(main())"
)


def test_the_help_names_the_logins_that_there_are() -> None:
    assert [*map(str, Auth)] == [*map(str, LoginMethod)]


def test_dev_sets_up_another_login_and_a_static_role_and_says_so() -> None:
    with started("dev", "--auth", "kubernetes", "--json") as process:
        variables = exported(process)
        dynamic = query(variables)
        static = query(variables | {"VAULT_PG_SOURCE": "static", "VAULT_PG_ROLE": "app-static"})
        _, errors, _ = ended(process, signal.SIGTERM)

    assert "VAULT_TOKEN" not in variables
    assert dynamic.startswith("('v-kubernet")
    assert static == "('app-static', 1000)\n"
    assert "VAULT_PG_SOURCE=static VAULT_PG_ROLE=app-static" in errors
    assert not Path(variables["VAULT_PG_KUBERNETES_TOKEN_FILE"]).exists()


def query(variables: dict[str, str]) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VAULT_")} | variables
    done = subprocess.run(
        [sys.executable, "-c", QUERY], capture_output=True, text=True, check=False, timeout=LONG, env=environment
    )
    assert (done.stderr, done.returncode) == ("", 0)
    return done.stdout


GUARDED = (
    "import subprocess, sys, time\nfrom vault_pg.cli.dev import guard\n"
    "with guard() as guarded:\n"
    "    guarded(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(3600)']).pid)\n"
    "    print('up', flush=True)\n    time.sleep(3600)"
)


def test_a_command_of_dev_does_not_outlive_a_kill() -> None:
    process = subprocess.Popen([sys.executable, "-c", GUARDED], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process:
        assert line_of(process) == "up\n"
        # The output ends when the command does, which holds it too.
        assert ended(process, signal.SIGKILL) == ("", "", -signal.SIGKILL)


def test_dev_says_when_its_command_cannot_be_run() -> None:
    done = vault_pg("dev", "no-such-command")

    assert (done.stdout, done.returncode) == ("", 1)
    assert done.stderr == "vault-pg: 'no-such-command' cannot be run: No such file or directory\n"


# -- demo


def test_a_demo_too_short_for_five_rotations_says_so(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in MEANT_FOR_OTHER_SERVERS.items():
        monkeypatch.setenv(name, value)
    done = vault_pg("demo", "--seconds", "1", "--clients", "4", "--ttl", "60", "--max-ttl", "60")

    assert (done.returncode, done.stderr) == (1, "")
    assert "✗ rotations         0 of at least 5: too few fit in 1.0 s; use --seconds 360 or a lower --max-ttl" in done.stdout
    for line in ("✓ failed queries    0", "✓ roles left        0", "✓ leases left       0", "✓ connections left  0"):
        assert line in done.stdout
    assert list(runtime.iterdir()) == []


def test_a_demo_that_is_stopped_ends_clean_and_says_so(runtime: Path) -> None:
    with started("demo", "--seconds", "600", "--clients", "4", "--ttl", "60", "--max-ttl", "60") as process:
        until(lambda: "checkouts/s" in line_of(process), "the load runs")
        shown = vault_pg("status")
        output, errors, code = ended(process, signal.SIGINT)

    assert (shown.returncode, "role database/app  serving" in shown.stdout) == (0, True)
    assert (errors, code) == ("", 1)
    assert "0 of at least 5: it was stopped after" in output
    for line in ("✓ failed queries    0", "✓ roles left        0", "✓ leases left       0", "✓ connections left  0"):
        assert line in output


def test_a_demo_shows_no_secret(runtime: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """In this process, so that all that its Vault hands out is known, and all that is logged at DEBUG is seen."""

    class Watched(DevVault):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            vaults.append(self)

    vaults: list[DevVault] = []
    monkeypatch.setattr("vault_pg.dev.DevVault", Watched)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "")  # it sets them; this way they are put back

    demo.run(Plan(seconds=1, clients=2, ttl=60, max_ttl=60, max_size=2))

    secrets = vaults[0].secrets()
    with leaks.watched(lambda: secrets):
        printed = capfd.readouterr()
        assert "✓ failed queries    0" in printed.out
        assert len(secrets) > 3
        assert leaks.find(printed.out + printed.err) == []


@pytest.mark.slow
def test_the_demo_as_everyone_runs_it(runtime: Path) -> None:
    done = subprocess.run([*COMMAND, "demo"], capture_output=True, text=True, check=False, timeout=4 * LONG)

    assert done.returncode == 0, done.stdout
    assert "✗" not in done.stdout
