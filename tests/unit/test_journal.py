"""The log: what a program that configures nothing but the level gets to read."""

from __future__ import annotations

import logging
import shlex

import pytest
from structlog.testing import capture_logs

from vault_pg.events import LeaseRotated, ManagerStarted, RenewalFailed
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
