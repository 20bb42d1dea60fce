"""Ends: whatever ends a service, at whatever moment, nothing of it is left, or what is left is named."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterable
from dataclasses import asdict

import pytest

from tests.chaos.conftest import Service
from tests.chaos.lives import Outcome, Plan
from tests.servers import DatabaseView, Mount
from tests.waiting import until
from vault_pg.dev import DevVault

MOMENTS = (
    "token.issued",
    "lease.issued",
    "manager.started",
    "lease.rotated",
    "generation.retired",
    "generation.closed",
    "lease.revoked",
    "token.revoked",
    "manager.stopped",
)
"""Of a life: login, issue (the pool is to be built), serving, the swap, draining, drained; and the same once more, leaving."""

CODES = {signal.SIGTERM: 143, signal.SIGINT: -signal.SIGINT}
"""What a process ends with that a signal has ended; a shell shows the second as 130."""

TERMINATED, INTERRUPTED = "SystemExit 143", "KeyboardInterrupt"


def assert_nothing_left(mount: Mount, database: DatabaseView) -> None:
    assert mount.leases() == []
    until(lambda: database.sessions() == 0, "PostgreSQL has ended the sessions")
    assert database.roles() == set()


def lived(process: subprocess.Popen[str], plans: Iterable[Plan]) -> list[Outcome]:
    out, err = process.communicate(json.dumps([asdict(plan) for plan in plans]), timeout=300)
    assert "never" not in err, err
    assert process.returncode == 0, err
    return [Outcome(**json.loads(line)) for line in out.splitlines()]


def strikes() -> list[Plan]:
    alone = [[moment] for moment in MOMENTS]
    again = [[moment, *[after] * 2] for moment in MOMENTS[:3] for after in ("generation.retired", "manager.stopped")]
    return [Plan(number, each) for number in (signal.SIGTERM, signal.SIGINT) for each in [*alone, *again]]


def test_a_signal_at_any_moment_ends_a_life_in_order(mount: Mount, database: DatabaseView, service: Service) -> None:
    plans = strikes()
    outcomes = lived(service(mount, "tests.chaos.lives"), plans)
    assert len(outcomes) == len(plans)
    for plan, outcome in zip(plans, outcomes, strict=True):
        assert outcome.struck, plan
        assert outcome.ended == (TERMINATED if plan.signal == signal.SIGTERM else INTERRUPTED), (plan, outcome)
        assert outcome.events[-1] == "manager.stopped", plan
        assert (outcome.left_behind, outcome.threads) == ([], []), (plan, outcome)
    assert_nothing_left(mount, database)


WAITS = """
    import asyncio
    from vault_pg import LeaseManager, get_pool

    async def main():
        manager = LeaseManager()
        manager.add_listener(lambda event: print(event.name, flush=True))
        async with manager:
            async with get_pool().connection() as conn:
                await conn.execute("select 1")
            print("serving", flush=True)
            await asyncio.Event().wait()

    asyncio.run(main())
"""


def read_until(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    seen = []
    for text in process.stdout:
        seen.append(text.strip())
        if seen[-1] == line:
            return
    raise AssertionError(f"no {line!r} in {seen}")


@pytest.mark.parametrize("sent", CODES)
def test_a_lease_that_arrives_after_the_signal_is_revoked(
    mount: Mount, dev_vault: DevVault, database: DatabaseView, service: Service, sent: signal.Signals
) -> None:
    # With a token of somebody else's, which is not revoked on leaving: the lease would end with it.
    token = {"VAULT_PG_AUTH": "token", "VAULT_TOKEN": mount.token().get_secret_value()}
    with dev_vault.faults.hold(f"{mount.path}/creds/app") as held:
        process = service(mount, WAITS, VAULT_PG_SHUTDOWN_TIMEOUT="0.5", **token)
        until(lambda: held.hits, "the issue is under way")
        process.send_signal(sent)
        read_until(process, "manager.stopped")
        assert process.poll() is None  # the lease is on its way
    _, err = process.communicate(timeout=60)
    assert process.returncode == CODES[sent], err
    assert dev_vault.log.count(f"GET {mount.path}/creds/app", status=200) == 1
    assert_nothing_left(mount, database)


# The whole of the timeout passes where SIGTERM is repeated, as nothing hurries it; one that came later than that would kill.
@pytest.mark.parametrize("sent", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGINT])
def test_impatience_while_vault_hangs_still_gets_the_leases_named(
    mount: Mount, dev_vault: DevVault, service: Service, sent: signal.Signals
) -> None:
    process = service(mount, WAITS, VAULT_PG_SHUTDOWN_TIMEOUT="20", VAULT_CLIENT_TIMEOUT="3")
    read_until(process, "serving")
    [lease] = mount.leases()
    with dev_vault.faults.hold() as held:
        process.send_signal(sent)
        until(lambda: held.hits, "the revocation is under way")
        for _ in range(3):
            process.send_signal(sent)
        out, err = process.communicate(timeout=60)
    assert process.returncode == CODES[sent], err
    assert out.split()[-2:] == ["manager.leases_left_behind", "manager.stopped"]
    assert lease in err


def test_a_fork_in_mid_life_is_told_and_harms_nobody(mount: Mount, database: DatabaseView, service: Service) -> None:
    out, err = service(mount, "tests.chaos.forks").communicate(timeout=120)
    tried = ("get_pool", "manager.get_pool", "status", "rotate", "connection", "try_connection", "getconn", "run_transaction")
    assert out.splitlines() == [
        *(f"child {name}: True" for name in tried),
        "child exit 7",
        f"children 0 {-signal.SIGTERM}",
        "parent healthy",
    ], err
    assert_nothing_left(mount, database)


def test_workers_that_fork_first_have_a_manager_each(mount: Mount, database: DatabaseView, service: Service) -> None:
    out, err = service(mount, "tests.chaos.workers").communicate(timeout=120)
    assert (out, err) == ("[0, 0, 0]\n", "")
    assert_nothing_left(mount, database)
