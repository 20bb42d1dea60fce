"""Health, exit codes and the exact JSON that operators and their monitoring read."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from vault_pg.manager.status import (
    DatabaseStatus,
    DrainStatus,
    Health,
    LeaseStatus,
    NextStep,
    PoolStatus,
    Report,
    State,
    Status,
    VaultStatus,
    health,
)

ISSUED = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def lease(remaining: float = 3000.46) -> LeaseStatus:
    return LeaseStatus(
        id="database/creds/app/x1",
        username="v-app-1",
        issued_at=ISSUED,
        ttl_seconds=3600,
        remaining_seconds=remaining,
        renewable=True,
        renewals=2,
    )


def database(state: State = "serving", *, leased: LeaseStatus | None = None) -> DatabaseStatus:
    return DatabaseStatus(
        name="default",
        mount="database",
        role="app",
        state=state,
        lease=leased,
        next=NextStep(action="renew", in_seconds=800.12, why="0.55 of the TTL"),
        pool=PoolStatus(generation=3, size=6, in_use=2, waiting=0, max_size=10),
        draining=(DrainStatus(generation=2, in_use=1, deadline_in_seconds=40.0),),
        rotations=2,
        last_error=None,
    )


def manager(condition: Health, *databases: DatabaseStatus) -> Status:
    return Status(
        pid=1,
        health=condition,
        started_at=ISSUED,
        vault=VaultStatus(address="https://vault:8200", reachable=True, token_remaining_seconds=1700),
        databases=databases,
    )


def test_the_json_is_the_documented_one() -> None:
    report = Report(managers=(manager("healthy", database(leased=lease())),))

    assert json.loads(report.model_dump_json()) == {
        "managers": [
            {
                "pid": 1,
                "health": "healthy",
                "started_at": "2026-11-21T12:00:00Z",
                "vault": {
                    "address": "https://vault:8200",
                    "reachable": True,
                    "token_remaining_seconds": 1700,
                    "unreachable_since": None,
                    "last_error": None,
                    "answered_at": None,
                    "token_trouble": None,
                },
                "databases": [
                    {
                        "name": "default",
                        "source": "dynamic",
                        "mount": "database",
                        "role": "app",
                        "state": "serving",
                        "lease": {
                            "id": "database/creds/app/x1",
                            "username": "v-app-1",
                            "issued_at": "2026-11-21T12:00:00Z",
                            "ttl_seconds": 3600,
                            "remaining_seconds": 3000.5,
                            "renewable": True,
                            "renewals": 2,
                            "ending": "role",
                        },
                        "next": {"action": "renew", "in_seconds": 800.1, "why": "0.55 of the TTL"},
                        "pool": {"generation": 3, "size": 6, "in_use": 2, "waiting": 0, "max_size": 10},
                        "draining": [{"generation": 2, "in_use": 1, "deadline_in_seconds": 40.0}],
                        "rotations": 2,
                        "last_error": None,
                    }
                ],
            }
        ]
    }


def test_a_status_survives_the_way_through_json() -> None:
    status = manager("degraded", database("degraded", leased=lease()), database("failed"))

    assert Status.model_validate_json(status.model_dump_json()) == status


def test_fields_of_a_newer_manager_are_passed_over() -> None:
    told = json.loads(manager("healthy").model_dump_json()) | {"colour": "green"}

    assert Status.model_validate(told) == manager("healthy")


def test_a_status_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        manager("healthy").pid = 2


@pytest.mark.parametrize(
    ("state", "leased", "expected"),
    [
        ("serving", lease(), "healthy"),
        ("rotating", lease(), "healthy"),
        ("degraded", lease(), "degraded"),
        ("failed", lease(), "critical"),
        ("failed", None, "critical"),
        ("starting", None, "critical"),
        ("serving", None, "critical"),
        ("serving", lease(remaining=0), "critical"),
        ("degraded", lease(remaining=-3), "critical"),
        ("stopping", lease(), "healthy"),
        ("stopping", None, "healthy"),
    ],
)
def test_health_of_a_database(state: State, leased: LeaseStatus | None, expected: Health) -> None:
    assert database(state, leased=leased).health == expected


def test_the_worst_part_decides_the_health_of_a_manager() -> None:
    well, ill, dead = database(leased=lease()), database("degraded", leased=lease()), database("failed")

    assert health(vault_well=True, databases=[well, well]) == "healthy"
    assert health(vault_well=False, databases=[well]) == "degraded"
    assert health(vault_well=True, databases=[ill, well]) == "degraded"
    assert health(vault_well=False, databases=[well, dead, ill]) == "critical"


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ([], 3),
        (["healthy"], 0),
        (["healthy", "degraded"], 1),
        (["critical", "healthy", "degraded"], 2),
    ],
)
def test_exit_code_is_that_of_the_worst_manager(conditions: list[Health], expected: int) -> None:
    assert Report(managers=tuple(manager(condition) for condition in conditions)).exit_code == expected
