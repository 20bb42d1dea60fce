"""What the commands write, and what the demo concludes."""

from __future__ import annotations

import asyncio
import io
from array import array
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from rich.console import Console

from vault_pg.cli.bar import bar, share, spark
from vault_pg.cli.demo_view import LiveView, PlainView
from vault_pg.cli.event_words import describe
from vault_pg.cli.glyphs import adapt
from vault_pg.cli.load import Meter, drive, percentile
from vault_pg.cli.record import Record
from vault_pg.cli.status_view import lines, table
from vault_pg.cli.verdict import Leftovers, Outcome, Plan, print_summary
from vault_pg.cli.wording import count, duration, printable
from vault_pg.events import (
    Event,
    GenerationClosed,
    GenerationRetired,
    LeaseRenewed,
    LeaseRotated,
    LeasesLeftBehind,
    ManagerStarted,
    ManagerStopped,
    RotationFailed,
    TokenIssued,
    TokenLost,
    TokenRevoked,
    VaultReachable,
    VaultUnreachable,
)
from vault_pg.manager.reader import Survey
from vault_pg.manager.status import (
    Action,
    DatabaseStatus,
    DrainStatus,
    LeaseStatus,
    NextStep,
    PoolStatus,
    Report,
    Status,
    VaultStatus,
    health,
)

PLAN = Plan(seconds=30, clients=32, ttl=3, max_ttl=5, max_size=10)
CLEAN = Leftovers(roles=0, leases=0, connections=0)


def serving(*, error: str | None = None) -> DatabaseStatus:
    return DatabaseStatus(
        name="default",
        mount="database",
        role="app",
        state="degraded" if error else "serving",
        lease=LeaseStatus(
            id="database/creds/app/x1",
            username="v-approle-app-UsgrSMyGhMmshLOTEKkc-1795306159",
            issued_at=datetime.now(UTC),
            ttl_seconds=3600,
            remaining_seconds=2700,
            renewable=True,
            renewals=1,
        ),
        next=NextStep(action="retry" if error else "renew", in_seconds=800, why="0.55 of the TTL"),
        pool=PoolStatus(generation=3, size=6, in_use=2, waiting=4, max_size=10),
        draining=(DrainStatus(generation=2, in_use=1, deadline_in_seconds=40),),
        rotations=2,
        last_error=error,
    )


def without_credential() -> DatabaseStatus:
    return DatabaseStatus(
        name="audit",
        mount="database",
        role="audit",
        state="failed",
        lease=None,
        next=None,
        pool=None,
        rotations=0,
        last_error="Vault is sealed",
    )


def survey_of(*databases: DatabaseStatus, reachable: bool = True, mute: tuple[int, ...] = ()) -> Survey:
    vault = VaultStatus(address="https://vault:8200", reachable=reachable, token_remaining_seconds=1700)
    started = datetime.now(UTC) - timedelta(hours=3, minutes=5)
    manager = Status(pid=7, health=health(reachable, databases), started_at=started, vault=vault, databases=databases)
    return Survey(Report(managers=(manager,)), mute)


def rendered(survey: Survey, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(table(survey))
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def rotated(generation: int) -> LeaseRotated:
    return LeaseRotated(
        database="default",
        role="app",
        lease_id="l2",
        username="v-2",
        generation=generation,
        previous_lease_id="l1",
        previous_username="v-1",
        why="max TTL is near",
        seconds=0.25,
    )


# -- words and bars


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0.0 s"),
        (2.44, "2.4 s"),
        (48.2, "48 s"),
        (119, "119 s"),
        (120, "2 min"),
        (3570, "1 h"),
        (11_100, "3 h 5 min"),
        (172_800, "2 d"),
        (200_000, "2 d 7 h"),
        (-3, "-3.0 s"),
    ],
)
def test_durations_are_as_exact_as_matters(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_counts() -> None:
    assert [count(1, "query", "queries"), count(2, "query", "queries"), count(0, "rotation")] == [
        "1 query",
        "2 queries",
        "0 rotations",
    ]


def test_nothing_that_a_terminal_would_obey_is_left() -> None:
    assert printable("a\x1b[2Jb\nc\x07\u202ed") == "a [2Jb c  d"


@pytest.mark.parametrize(
    ("left", "cells", "style"),
    [
        (1.0, "████████", "green"),
        (0.5, "████░░░░", "green"),
        (0.2, "█▋░░░░░░", "yellow"),
        (0.05, "▍░░░░░░░", "red"),
    ],
)
def test_a_bar_shows_what_is_left_and_how_bad_that_is(left: float, cells: str, style: str) -> None:
    shown = bar(left, 8)

    assert shown.plain == cells
    assert shown.spans[0].style == style


def test_a_bar_of_nothing_is_empty() -> None:
    assert bar(0.0, 8).plain == "░░░░░░░░"


def test_shares_stay_between_nothing_and_all() -> None:
    assert [share(5, 3), share(-1, 3), share(1, 0), share(1, 4)] == [1.0, 0.0, 0.0, 0.25]


def test_a_spark_is_as_high_as_its_share_of_the_highest() -> None:
    assert spark([0, 1, 2, 4, 8]) == " ▁▂▄█"
    assert spark([0, 0]) == "  "
    assert spark([]) == ""


# -- status


def test_the_table_of_a_healthy_manager() -> None:
    assert rendered(survey_of(serving())) == (
        "● healthy  pid 7, up 3 h 5 min\n"
        "  Vault https://vault:8200 answers, token 28 min left\n"
        "\n"
        "  default  role database/app  serving  2 rotations\n"
        "    lease       ██████████████████░░░░░░  45 min of 1 h\n"
        "                v-approle-app-UsgrSMyGhMmshLOTEKkc-1795306159, 1 renewal\n"
        "    next        renew in 13 min: 0.55 of the TTL\n"
        "    pool        generation 3: 2 of 6 in use (max 10), 4 waiting\n"
        "    draining    generation 2: 1 in use, 40 s left"
    )


def test_the_table_of_a_manager_in_trouble() -> None:
    shown = rendered(survey_of(serving(error="Vault is sealed"), without_credential(), reachable=False))

    assert "● critical" in shown
    assert "Vault https://vault:8200 does not answer" in shown
    assert "    error       Vault is sealed" in shown
    assert "    lease       none: no credential that works" in shown


def test_a_vault_that_is_away_is_told_of_with_since_when_and_why() -> None:
    survey = survey_of(serving(), reachable=False)
    [manager] = survey.report.managers
    assert manager.vault is not None
    since = datetime.now(UTC) - timedelta(hours=2, minutes=5)
    vault = manager.vault.model_copy(update={"unreachable_since": since, "last_error": "Vault at https://vault:8200 is sealed"})
    survey = replace(survey, report=Report(managers=(manager.model_copy(update={"vault": vault}),)))

    assert (
        "● degraded  pid 7, up 3 h 5 min\n"
        "  Vault https://vault:8200 has not answered for 2 h 5 min, token 28 min left\n"
        "  Vault at https://vault:8200 is sealed\n"
    ) in rendered(survey)
    [line] = lines(survey)
    assert "vault=unreachable vault_error='Vault at https://vault:8200 is sealed'" in line


def test_a_token_that_has_to_be_replaced_by_hand_is_told_of_with_what_to_do() -> None:
    survey = survey_of(serving())
    [manager] = survey.report.managers
    assert manager.vault is not None
    vault = manager.vault.model_copy(update={"token_trouble": "the token ends soon"})
    survey = replace(survey, report=Report(managers=(manager.model_copy(update={"vault": vault}),)))

    assert "  the token ends soon\n" in rendered(survey)
    [line] = lines(survey)
    assert "vault=reachable token_trouble='the token ends soon'" in line


def test_an_error_is_shown_in_full_however_narrow_the_terminal() -> None:
    error = " ".join(f"word{number}" for number in range(40))
    shown = rendered(survey_of(serving(error=error)), width=50)

    assert error in " ".join(shown.split())


@pytest.mark.parametrize(
    ("action", "seconds", "words"),
    [
        ("retry", 0.0, "trying now: Vault is away"),
        ("renew", 0.04, "renew now: Vault"),
        ("retry", 0.1, "retry in 0.1 s: Vault"),
        ("hold", 20.0, "ends in 20 s: Vault is away"),
        ("hold", 0.0, "ends now: Vault is away"),
    ],
)
def test_a_step_whose_time_has_come_is_under_way(action: Action, seconds: float, words: str) -> None:
    step = NextStep(action=action, in_seconds=seconds, why="Vault is away")

    assert f"    next        {words}" in rendered(survey_of(serving().model_copy(update={"next": step})))


def test_managers_are_kept_apart() -> None:
    found = survey_of(serving())
    shown = rendered(Survey(Report(managers=found.report.managers * 2), (99,))).split("\n")

    heads = [number for number, line in enumerate(shown) if line.startswith("●")]
    assert heads[0] == 0
    assert len(heads) == 3
    assert all(shown[number - 1] == "" for number in heads[1:])


def test_a_terminal_without_our_glyphs_gets_plain_ones() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    adapt(stream)
    Console(file=stream, width=80).print(table(survey_of(serving())))
    stream.flush()

    assert isinstance(stream.buffer, io.BytesIO)
    written = stream.buffer.getvalue().decode("ascii")
    assert "* healthy  pid 7" in written
    assert "##################......  45 min of 1 h" in written


def test_a_process_without_an_answer_is_shown() -> None:
    assert "● no answer  pid 99 lives but gives no status" in rendered(survey_of(serving(), mute=(99,)))


def test_a_line_has_all_that_a_log_needs() -> None:
    mute = "lives but gives no status: its event loop is blocked or overloaded, or it runs another version of vault_pg"
    facts = (
        "pid=7 health=degraded database=default state=degraded lease=2700s/3600s",
        "user=v-approle-app-UsgrSMyGhMmshLOTEKkc-1795306159 next=retry in=800s generation=3 in_use=2/6 waiting=4",
        "rotations=2 draining=1 vault=reachable last_error='Vault is sealed'",
    )
    found = lines(survey_of(serving(error="Vault is sealed"), mute=(99,)))

    assert found == [" ".join(facts), f"pid=99 health=unknown: it {mute}"]


# -- what the demo measures


def test_percentiles_by_nearest_rank() -> None:
    values = array("d", range(1, 101))

    assert [percentile(values, 50), percentile(values, 99), percentile(values, 100)] == [50, 99, 100]
    assert percentile([7.0], 99) == 7.0
    assert percentile([], 99) is None


def test_a_meter_tells_what_overlapped_a_swap_from_the_rest() -> None:
    meter = Meter()
    for start, end in [(0.0, 0.1), (9.0, 9.55), (9.0, 9.65), (10.0, 10.1), (10.2, 10.4), (10.3, 10.6), (20.0, 20.5)]:
        meter.first(start, end)

    around, steady = meter.split([10.0], before=0.4, after=0.25)

    assert [round(latency, 2) for latency in around] == [0.65, 0.1, 0.2]
    assert [round(latency, 2) for latency in steady] == [0.1, 0.55, 0.3, 0.5]


def test_a_meter_knows_the_latest() -> None:
    meter = Meter()
    for end in (1.0, 2.0, 3.0):
        meter.first(end - 0.5, end)

    assert list(meter.since(2.0)) == [0.5, 0.5]
    assert meter.queries == 3


def test_failures_are_counted_by_kind() -> None:
    meter = Meter()
    for error in (ValueError("no\nmore"), ValueError("no"), KeyError("x")):
        meter.fail(error)

    assert meter.failures == {"ValueError: no": 2, "KeyError: 'x'": 1}
    assert meter.failed == 3


def test_a_record_counts_what_the_manager_tells() -> None:
    times = iter([1.0, 2.0, 3.0, 3.0, 4.0, 5.0, 6.0])
    record = Record(times.__next__)
    retired = GenerationRetired(database="default", generation=1, in_use=2, deadline_seconds=3.0)
    events: list[Event] = [
        TokenIssued(method="approle", serial=1, ttl_seconds=10.0, renewable=True),
        retired,
        rotated(2),
        GenerationClosed(database="default", generation=1, seconds=0.1),
        GenerationRetired(database="default", generation=2, in_use=0, deadline_seconds=3.0),
    ]
    for event in events:
        record(event)

    assert [event for _, event in record.told] == events
    assert (record.swaps, record.logins, record.most_generations) == ([3.0], 1, 2)


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (rotated(4), "generation 4 serves after 0.2 s: max TTL is near"),
        (
            LeaseRenewed(database="d", role="r", lease_id="l", username="u", remaining_seconds=1.5, ttl_seconds=2.0, capped=True),
            "with 1.5 s left, now 2.0 s; less than asked for, max TTL is near",
        ),
        (
            RotationFailed(
                database="d", role="r", error="Vault is sealed", attempt=1, retry_in_seconds=2.0, remaining_seconds=9.0
            ),
            "Vault is sealed; again in 2.0 s",
        ),
        (TokenIssued(method="token", serial=1, ttl_seconds=None, renewable=False), "token token 1, never ends"),
        (TokenRevoked(method="approle", serial=2), "approle token 2"),
        (ManagerStarted(databases=("default", "reports")), "keeps default and reports"),
        (ManagerStopped(databases=("default",), seconds=0.019, left_behind=()), "in 0.0 s, leases left behind: none"),
        (LeasesLeftBehind(lease_ids=("a/b", "c/d")), "lease ids a/b and c/d"),
        (VaultUnreachable(address="https://vault:8200", error="Vault is sealed"), "Vault is sealed"),
        (VaultReachable(address="https://vault:8200", outage_seconds=9.0), "after 9.0 s"),
        (TokenLost(method="token", serial=3, why="it is dead"), "method token, serial 3, why it is dead"),
    ],
)
def test_events_in_words(event: Event, words: str) -> None:
    assert describe(event) == words


# -- what the demo concludes


def outcome(*, rotations: int = 7, lasted: float = 30.0, failures: int = 0, queries: int = 100) -> Outcome:
    record, meter = Record(lambda: 0.0), Meter()
    for number in range(rotations):
        record(rotated(number + 2))
    for number in range(queries):
        meter.first(number, number + 0.01)
    for _ in range(failures):
        meter.fail(ValueError("no"))
    return Outcome(lasted=lasted, planned=30.0, meter=meter, record=record)


@pytest.mark.parametrize(
    ("result", "left", "broken"),
    [
        (outcome(), CLEAN, []),
        (outcome(rotations=5), CLEAN, []),
        (outcome(rotations=4), CLEAN, ["rotations"]),
        (outcome(failures=1), CLEAN, ["failed queries"]),
        (outcome(queries=0), CLEAN, ["queries"]),
        (outcome(), Leftovers(roles=1, leases=0, connections=0), ["roles left"]),
        (outcome(), Leftovers(roles=0, leases=2, connections=0), ["leases left"]),
        (outcome(), Leftovers(roles=0, leases=0, connections=3), ["connections left"]),
    ],
)
def test_the_demo_passes_only_if_all_is_well(result: Outcome, left: Leftovers, broken: list[str]) -> None:
    assert [check.name for check in result.checks(PLAN, left) if not check.passed] == broken


@pytest.mark.parametrize(
    ("result", "plan", "why"),
    [
        (outcome(rotations=2), PLAN, "2 of at least 5"),
        (outcome(rotations=2, lasted=7), PLAN, "2 of at least 5: it was stopped after 7.0 s"),
        (
            outcome(rotations=2),
            Plan(seconds=30, clients=1, ttl=4, max_ttl=12, max_size=1),
            "2 of at least 5: too few fit in 30 s; use --seconds 72 or a lower --max-ttl",
        ),
    ],
)
def test_the_summary_says_why_there_were_too_few_rotations(result: Outcome, plan: Plan, why: str) -> None:
    (check,) = [check for check in result.checks(plan, CLEAN) if check.name == "rotations"]

    assert (check.found, check.passed) == (why, False)


def test_the_summary() -> None:
    console = Console(file=io.StringIO(), width=60)
    print_summary(console, PLAN, outcome(failures=2), Leftovers(roles=1, leases=0, connections=0))

    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == (
        "\n"
        "30 s, 100 queries by 32 clients on a pool of 10, leases of 3 s with max TTL 5 s\n"
        "checkout and first query: p50 10.0 ms, p99 10.0 ms, p99 around rotations 10.0 ms\n"
        "0 renewals, at most 1 generation at a time, 0 logins to Vault, 0 token renewals\n"
        "\n"
        "  ✓ rotations         7 (at least 5 wanted)\n"
        "  ✓ queries           100 made\n"
        "  ✗ failed queries    2\n"
        "  ✗ roles left        1\n"
        "  ✓ leases left       0\n"
        "  ✓ connections left  0\n"
        "    2 times: ValueError: no\n"
    )


# -- the demo's pictures


def shown_by(kind: Callable[..., PlainView | LiveView], *, terminal: bool) -> str:
    console = Console(file=io.StringIO(), width=100, height=30, force_terminal=terminal, color_system=None)
    result = outcome(rotations=1)
    status = survey_of(serving()).report.managers[0]
    with kind(console, PLAN, result.meter, result.record, 0.0) as view:
        view.show(status, 1.0)
        view.show(status, 2.0)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_without_a_terminal_the_demo_prints_lines() -> None:
    assert shown_by(PlainView, terminal=False).splitlines() == [
        "   0.0 s  lease.rotated: generation 2 serves after 0.2 s: max TTL is near",
        *(
            f"{now:6.1f} s  {rate} checkouts/s, p50 10.0 ms, p99 10.0 ms, 0 failed; "
            "generation 3: 2 of 6 in use (max 10), 4 waiting; lease 45 min of 1 h; renew in 13 min"
            for now, rate in ((1.0, 100), (2.0, 50))
        ),
    ]


def test_in_a_terminal_the_demo_draws_a_picture() -> None:
    picture = shown_by(LiveView, terminal=True)

    for words in (
        "32 clients on a pool of 10, leases of 3 s, max TTL 5 s",
        "renew in 13 min: 0.55 of the TTL",
        "generation 3: 2 of 6 in use (max 10), 4 waiting; generation 2 drains, 1 in use",
        "0 failed",
        "lease.rotated      generation 2 serves after 0.2 s: max TTL is near",
        "▲",
    ):
        assert words in picture


@pytest.mark.looptime
async def test_clients_count_what_fails_and_go_on_until_they_are_stopped() -> None:
    meter, stop = Meter(), asyncio.Event()

    class Refusing:
        def connection(self) -> Any:
            if meter.failed == 5:
                stop.set()
            raise ConnectionError("refused")

    await drive(cast("Any", Refusing()), meter, 2, stop)

    assert set(meter.failures) == {"ConnectionError: refused"}
    assert meter.failed in {6, 7}  # the other client may have been asleep, or at its last query
    assert meter.queries == 0
