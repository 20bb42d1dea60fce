"""The log: what a program that configures nothing but the level gets to read."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from structlog.testing import capture_logs

from vault_pg.events import LeaseRotated, ManagerStarted, RenewalFailed, RotationFailed, TokenRenewalFailed
from vault_pg.manager.journal import Journal

FAILED = RenewalFailed(
    database="default",
    role="app",
    lease_id="database/creds/app/x",
    username="v-1",
    error='Vault at https://vault:8200 is sealed: say "unseal"',
    attempt=1,
    retry_in_seconds=0.123456,
    remaining_seconds=3000.0004,
)


def logged(caplog: pytest.LogCaptureFixture) -> dict[str, str]:
    """The one line logged, as a reader of keys and values takes it."""
    (line,) = caplog.messages
    return dict(pair.split("=", 1) for pair in shlex.split(line))


def test_a_line_is_keys_and_values_that_can_be_told_apart(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "vault_pg"):
        Journal()(FAILED)

    assert logged(caplog) == {
        "event": "lease.renewal_failed",
        "database": "default",
        "role": "app",
        "lease_id": "database/creds/app/x",
        "username": "v-1",
        "error": 'Vault at https://vault:8200 is sealed: say "unseal"',
        "attempt": "1",
        "retry_in_seconds": "0.123",
        "remaining_seconds": "3000.0",
    }
    assert caplog.messages[0].startswith("event=lease.renewal_failed ")


def test_several_values_are_one_value(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "vault_pg"):
        Journal()(ManagerStarted(databases=("default", "reports")))

    assert logged(caplog) == {"event": "manager.started", "databases": "default, reports"}


def failed(attempt: int, error: str, wait: float | None = 2.0) -> RotationFailed:
    return RotationFailed(
        database="default", role="app", error=error, attempt=attempt, retry_in_seconds=wait, remaining_seconds=None
    )


def test_there_is_no_word_of_what_there_is_none_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "vault_pg"):
        Journal()(failed(1, "sealed", None))

    assert logged(caplog) == {
        "event": "lease.rotation_failed", "database": "default", "role": "app", "error": "sealed", "attempt": "1",
    }  # fmt: skip


def test_a_program_with_structlog_gets_the_values_as_they_are() -> None:
    rotated = LeaseRotated(
        database="default",
        role="app",
        lease_id="l2",
        username="v-2",
        generation=2,
        previous_lease_id=None,
        previous_username=None,
        why="max TTL is near",
        seconds=0.0515678,
    )
    with capture_logs() as lines:
        Journal()(rotated)

    assert lines == [
        {
            "event": "lease.rotated",
            "log_level": "info",
            "database": "default",
            "role": "app",
            "lease_id": "l2",
            "username": "v-2",
            "generation": 2,
            "previous_lease_id": None,
            "previous_username": None,
            "why": "max TTL is near",
            "seconds": 0.052,
        }
    ]


def attempts(lines: Iterable[Mapping[str, Any]]) -> list[Any]:
    return [line["attempt"] for line in lines if line["log_level"] == "error"]


def test_a_failure_that_goes_on_is_told_ever_more_rarely_and_counted() -> None:
    journal = Journal()
    with capture_logs() as lines:
        for attempt in range(1, 1801):  # an hour
            journal(failed(attempt, f"role 'v-app-{attempt}x' waited {attempt / 7:.1f} s"))

    assert attempts(lines) == [2**n for n in range(11)]
    assert {line["log_level"] for line in lines} == {"error", "debug"}


def test_another_reason_is_told_at_once() -> None:
    journal = Journal()
    with capture_logs() as lines:
        for attempt, error in enumerate(["sealed", "sealed", "sealed", "denied", "denied", "denied", "sealed"], 1):
            journal(failed(attempt, error))

    assert attempts(lines) == [1, 2, 4, 7]


def test_the_next_outage_is_told_from_its_start_and_a_last_attempt_always() -> None:
    journal = Journal()
    with capture_logs() as lines:
        for attempt in (1, 2, 3, 1, 2, 3):
            journal(failed(attempt, "sealed", None if len(lines) == 5 else 2.0))

    assert attempts(lines) == [1, 2, 1, 2, 3]


def test_another_status_is_another_reason() -> None:
    with capture_logs() as lines:
        journal = Journal()
        for attempt, status in enumerate((502, 502, 500, 502, 502), 1):
            journal(failed(attempt, f"Vault at https://vault:8200 cannot answer now: status {status}"))

    assert [line["log_level"] for line in lines] == ["error", "error", "error", "error", "debug"]


def test_reasons_that_take_turns_do_not_make_every_attempt_news() -> None:
    journal = Journal()
    with capture_logs() as lines:
        for attempt in range(1, 1801):
            journal(failed(attempt, "sealed" if attempt % 2 else "refuses the connection"))

    assert len(attempts(lines)) < 40


def test_a_vault_that_hangs_is_one_reason_whatever_was_asked_and_however_long_it_had() -> None:
    journal, vault = Journal(), "Vault at http://127.0.0.1:8200 did not answer"
    ends = (
        " sys/leases/renew within 10 s",
        " within the 7.3 s that were left for it",
        " auth/token/lookup-self within the 2 s that were left for it",
        " within 10 s",
        " database/creds/app in time",
    )
    with capture_logs() as lines:
        for attempt in range(1, 1801):
            journal(failed(attempt, vault + ends[attempt % len(ends)]))

    assert attempts(lines) == [2**n for n in range(11)]


def test_a_login_that_goes_on_failing_is_told_ever_more_rarely() -> None:
    journal = Journal()
    with capture_logs() as lines:
        for attempt in range(1, 1801):
            journal(
                TokenRenewalFailed(
                    method="userpass", serial=1, error="refused", attempt=attempt, retry_in_seconds=2.0, remaining_seconds=0.0
                )
            )

    assert [line["attempt"] for line in lines if line["log_level"] != "debug"] == [2**n for n in range(11)]
