"""Every exchange recorded from a real Vault, sent again: the answers must be alike.

The same tests run against a real server; what newer servers are known to say otherwise stands in NEWER.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from pydantic import SecretStr

from tests.contract.shape import differences
from tests.contract.world import Before, World
from tests.servers import REAL_VAULT, DatabaseView, any_vault
from vault_pg.dev import EmbeddedPostgres

RECORD = json.loads(Path(__file__).with_name("vault-transcripts.json").read_text())
EXCHANGES: list[dict[str, Any]] = RECORD["exchanges"]
RECORDED = 78
"""Exchanges that were recorded."""

Denied = (403, r"permission denied")
NEWER: dict[str, tuple[int, str]] = {
    "token-bad": Denied,
    "token-expired": Denied,
    "creds-bad-token": Denied,
    "token-missing": Denied,
    "creds-no-token": Denied,
    "login-unmounted": Denied,
    "approle-login-bad-secret": (400, r"invalid role or secret ID"),
    "approle-login-bad-role": (400, r"invalid role or secret ID"),
    "creds-broken-sql": (500, r'unrecognized role option "syntax"'),
    "creds-db-down": (500, r"connect"),
    "lease-renew-db-down": (400, r"failed to renew entry: .*connect"),
    "unknown-path": (404, r"no handler for route"),
    "namespace-header": (404, r"namespace not found"),
    "lease-renew-legacy": Denied,
    "sealed-creds": (503, r"Vault is sealed"),
    "sealed-renew": (503, r"Vault is sealed"),
}
"""Status and error text of servers newer than the recorded one (OpenBao among them), where they are known to differ."""

MOMENTARY = ("lease-renew-near-max", "creds-batch")
"""Their lease_duration depends on when they are sent."""


@pytest.fixture(scope="module")
def world(postgres: EmbeddedPostgres) -> Iterator[World]:
    with any_vault() as server:
        built = World(server, postgres)
        yield built
        postgres.start()
        built.unseal()
        built.root.adapter.close()
    # Some recorded roles cannot be dropped by Vault, and a sealed one drops none.
    database = DatabaseView(postgres)
    for name in database.roles():
        database.execute("DROP ROLE IF EXISTS {}", name)


def token_for(world: World, name: str) -> SecretStr | None:
    """The token that the recording calls `name`, made anew."""
    makers: dict[str, Callable[[], SecretStr | None]] = {
        "none": lambda: None,
        "root": lambda: world.server.root_token,
        "unknown": lambda: SecretStr("s.nobodyknowsthistokenhere"),
        "child": world.token,
        "batch": lambda: world.approle_token("batchy"),
        "wrapping": world.wrapping_token,
        "expired": lambda: world.token(ttl="1s"),
        "6 s service token": lambda: world.token(ttl="6s", policies=["root"]),
    }
    return makers[name]()


def lease_values(lease_id: str) -> dict[str, str]:
    return {"<lease>": lease_id.rpartition("/")[2]}


def refused(response: requests.Response) -> bool:
    return response.status_code >= 400


def child_creds(world: World) -> Before:
    return Before(token=world.approle_token())


def child_of_another(world: World) -> Before:
    return Before(values=lease_values(world.lease()))


def long_lease(world: World) -> Before:
    return Before(values=lease_values(world.lease("long")))


def norevoke_lease(world: World) -> Before:
    return Before(values=lease_values(world.lease("norevoke")))


def ended_lease(world: World) -> Before:
    return Before(values=lease_values(world.gone_lease()))


def unknown_lease(_world: World) -> Before:
    return Before(values={"<lease>": "A" * 24})


def near_max(world: World) -> Before:
    # Renewed again and again, a lease of 4 s that may live 6 s is granted less than 4 s after 2 s.
    world.role("app", 4, 6)
    lease_id = world.lease()
    return Before(
        values=lease_values(lease_id),
        until=lambda response: bool(response.json()["warnings"]),
        after=lambda: world.role("app", 10, 25),
    )


def expiring_parent(world: World) -> Before:
    return Before(values=lease_values(world.lease("long", world.token(ttl="4s", policies=["root"]))), until=refused)


def revoked_parent(world: World) -> Before:
    token = world.token()
    lease_id = world.lease("app", token)
    world.root.auth.token.revoke(token.get_secret_value())
    return Before(values=lease_values(world.ended(lease_id)))


def expired_token(_world: World) -> Before:
    return Before(until=refused)


def approle_ids(world: World) -> Before:
    return Before(values=world.approle_ids())


def batchy_ids(world: World) -> Before:
    return Before(values=world.approle_ids("batchy"))


def wrapped(world: World) -> Before:
    return Before(values={"<wrapping_token>": world.wrapping_token().get_secret_value()})


def lease_then_database_down(world: World) -> Before:
    before = Before(values=lease_values(world.lease()), after=world.postgres.start)
    world.stop_postgres()
    return before


def database_back(world: World) -> Before:
    world.stop_postgres()
    world.postgres.start()
    return Before()


def sealed(world: World) -> Before:
    world.seal()
    return Before(values={"<lease>": "A" * 24}, after=world.unseal)


def about_to_seal(world: World) -> Before:
    return Before(after=world.unseal)


ARRANGEMENTS: dict[str, Callable[[World], Before]] = {
    "approle-login": approle_ids,
    "approle-login-bad-secret": approle_ids,
    "approle-login-bad-role": approle_ids,
    "approle-login-batch": batchy_ids,
    "wrap-lookup": wrapped,
    "creds": child_creds,
    "lease-lookup": child_of_another,
    "lease-lookup-forbidden": child_of_another,
    "lease-renew": child_of_another,
    "lease-renew-increment": child_of_another,
    "lease-renew-increment-over": child_of_another,
    "lease-renew-post-path": child_of_another,
    "lease-renew-legacy": child_of_another,
    "lease-list": child_of_another,
    "lease-renew-in-time": child_of_another,
    "lease-renew-near-max": near_max,
    "lease-lookup-parent-expired": expiring_parent,
    "lease-lookup-parent-revoked": revoked_parent,
    "lease-renew-parent-revoked": revoked_parent,
    "token-expired": expired_token,
    "lease-renew-expired": ended_lease,
    "lease-lookup-expired": ended_lease,
    "lease-revoke-expired": ended_lease,
    "lease-renew-unknown": unknown_lease,
    "lease-lookup-unknown": unknown_lease,
    "lease-revoke": long_lease,
    "lease-revoke-sync": long_lease,
    "lease-revoke-prefix": long_lease,
    "lease-revoke-force": norevoke_lease,
    "creds-db-down": lease_then_database_down,
    "lease-renew-db-down": lease_then_database_down,
    "creds-db-back": database_back,
    "sys-seal": about_to_seal,
    "sealed-health": sealed,
    "sealed-creds": sealed,
    "sealed-renew": sealed,
}
"""What has to be done before a request; all others need their token alone."""


def answer_to(world: World, exchange: dict[str, Any]) -> requests.Response:
    request = exchange["request"]
    # The token is made while the server still answers.
    token = token_for(world, request["token"])
    arrange = ARRANGEMENTS.get(exchange["id"])
    before = arrange(world) if arrange else Before()
    before.token = before.token or token
    try:
        response = world.send(request, before)
        while before.until and not before.until(response):
            # Lease and token end when their time has come, which Vault decides.
            response = world.send(request, before)
        return response
    finally:
        if before.after:
            before.after()


def compare(exchange: dict[str, Any], response: requests.Response) -> list[str]:
    recorded = exchange["response"]
    body = response.json() if response.content else None
    if REAL_VAULT and exchange["id"] in NEWER and body and "errors" in body:
        status, text = NEWER[exchange["id"]]
        if response.status_code == status and re.search(text, body["errors"][0], re.DOTALL):
            return []
    found = (
        [] if response.status_code == recorded["status"] else [f"status {response.status_code} instead of {recorded['status']}"]
    )
    for name, value in recorded["headers"].items():
        if response.headers.get(name) != value and not (REAL_VAULT and response.status_code == 204):
            found.append(f"header {name}: {response.headers.get(name)} instead of {value}")
    expected = recorded["body"]
    if exchange["id"] == "token-lookup-root":
        expected = {**expected, "data": {**expected["data"], "id": "<token>"}}
    loose = ("lease_duration",) if exchange["id"] in MOMENTARY else ()
    return found + differences(expected, body, newer=bool(REAL_VAULT), loose=loose)


@pytest.mark.parametrize("exchange", EXCHANGES, ids=[exchange["id"] for exchange in EXCHANGES])
def test_answers_as_the_recorded_server_did(world: World, exchange: dict[str, Any]) -> None:
    found = compare(exchange, answer_to(world, exchange))
    assert not found, f"{exchange['what']}:\n" + "\n".join(found)


def test_an_exchange_that_is_left_out_would_be_noticed() -> None:
    """Of the record, as well as by a name that no longer fits: an exchange without its arrangement would be another one."""
    ids = [exchange["id"] for exchange in EXCHANGES]
    assert len(ids) == len(set(ids)) == RECORDED
    assert {*ARRANGEMENTS, *NEWER, *MOMENTARY} <= set(ids)


def test_a_changed_answer_would_be_noticed() -> None:
    """The comparison itself: each kind of difference is one."""
    recorded = {"a": "<uuid>", "b": [1, 2], "c": None, "lease_duration": 10, "d": True}
    same = {"a": "00000000-0000-0000-0000-000000000000", "b": [3, 4], "c": None, "lease_duration": 10, "d": True}
    assert differences(recorded, same) == []
    changes: list[dict[str, Any]] = [
        {"a": "x"},
        {"b": [1]},
        {"b": ["1", "2"]},
        {"c": 0},
        {"lease_duration": 9},
        {"d": False},
        {"e": 1},
    ]
    for change in changes:
        assert differences(recorded, {**same, **change}), change
    assert differences(recorded, {key: value for key, value in same.items() if key != "c"})
    assert differences('TTL of "10s" exceeded', 'TTL of "9s" exceeded') == []
    assert differences("lease not found", "invalid lease")


def test_a_newer_server_may_say_more_and_not_less() -> None:
    recorded = {"sealed": False, "is_self": False, "warnings": None, "errors": ["no"]}
    assert differences(recorded, {"sealed": False, "warnings": ["x"], "errors": ["no"], "build_date": "x"}, newer=True) == []
    assert differences(recorded, {**recorded, "warnings": ["x"]})
    assert differences(recorded, {"is_self": False, "warnings": None, "errors": ["no"]}, newer=True)
    assert differences(recorded, {**recorded, "errors": ["other"]}, newer=True)
