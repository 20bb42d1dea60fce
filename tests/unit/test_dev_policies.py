"""Policies of the dev Vault: what they say, and which one decides."""

from __future__ import annotations

import json

import pytest

from vault_pg.dev.vault.durations import grant, seconds, written
from vault_pg.dev.vault.messages import Refused
from vault_pg.dev.vault.policies import DEFAULT, Policies, capabilities, matches, parse

HCL = """
# a comment with path "no" { }
path "database/creds/app" { capabilities = ["read"] }
/* path "sys/*" { capabilities = ["sudo"] } */
path "a/+/c" {
  capabilities = ["read", "list",]  // trailing comma
}
path "with#hash//and/*" { capabilities = ["deny"] }
path "database/creds/app" { capabilities = ["update"] }
"""


def test_hcl_is_read() -> None:
    assert parse(HCL) == {
        "database/creds/app": {"read", "update"},
        "a/+/c": {"read", "list"},
        "with#hash//and/*": {"deny"},
    }


def test_json_is_read() -> None:
    assert parse(json.dumps({"path": {"a/*": {"capabilities": ["read"]}}})) == {"a/*": {"read"}}


@pytest.mark.parametrize(
    "text",
    [
        'path "x" { policy = "read" }',
        'path "x" { capabilities = ["read"] ',
        'path "x" { capabilities = ["fly"] }',
        'path "x" { capabilities = ["read"] } nonsense',
        "{not json",
        '{"path": {"x": {}}}',
        '{"path": []}',
    ],
)
def test_what_it_cannot_read_is_refused(text: str) -> None:
    with pytest.raises(Refused) as refused:
        parse(text)
    assert refused.value.status == 400
    assert refused.value.errors[0].startswith("failed to parse policy: ")


@pytest.mark.parametrize(
    ("pattern", "path", "fits"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/b/c", False),
        ("a/*", "a/b/c", True),
        ("a/*", "a", False),
        ("a/b*", "a/bcd", True),
        ("a/+/c", "a/b/c", True),
        ("a/+/c", "a/b/x/c", False),
        ("a/+/c*", "a/b/cde/f", True),
        ("+/creds/+", "db/creds/app", True),
        ("a.b", "axb", False),
    ],
)
def test_patterns(pattern: str, path: str, *, fits: bool) -> None:
    assert matches(pattern, path) is fits


@pytest.mark.parametrize(
    ("rules", "decides"),
    [
        (["*", "a/*", "a/b/c"], "a/b/c"),
        (["*", "a/*", "a/b/*"], "a/b/*"),
        (["a/+/c", "a/b/*"], "a/b/*"),
        (["a/+/c", "a/+/*"], "a/+/c"),
        (["+/+/c", "+/b/c"], "+/b/c"),
    ],
)
def test_the_most_specific_pattern_decides(rules: list[str], decides: str) -> None:
    policies = [{pattern: frozenset({pattern})} for pattern in rules]
    assert capabilities(policies, "a/b/c") == {decides}
    assert capabilities(reversed(policies), "a/b/c") == {decides}


def test_policies_add_up_and_deny_wins() -> None:
    read, update, deny = ({"a": frozenset({what})} for what in ("read", "update", "deny"))
    assert capabilities([read, update], "a") == {"read", "update"}
    assert capabilities([read, deny], "a") == frozenset()
    assert capabilities([read], "b") == frozenset()


def test_names_without_a_policy_give_nothing_and_root_gives_all() -> None:
    policies = Policies()
    assert policies.allowed(["nothing"], "sys/leases/renew") == frozenset()
    assert policies.allowed([DEFAULT], "sys/leases/renew") == {"update"}
    assert policies.allowed(["root"], "anything") == {"root"}
    policies.write("own", 'path "x" { capabilities = ["read"] }')
    assert policies.allowed(["own"], "x") == {"read"}
    policies.delete("own")
    assert policies.allowed(["own"], "x") == frozenset()
    for name in ("root", "default"):
        with pytest.raises(Refused):
            policies.delete(name)


@pytest.mark.parametrize(
    ("given", "read"), [(20, 20), ("20", 20), ("20s", 20), ("1h30m", 5400), ("2d", 172800), ("1.5h", 5400), (None, 0), ("", 0)]
)
def test_durations_are_read(given: object, read: int) -> None:
    assert seconds(given) == read


@pytest.mark.parametrize("given", ["soon", "20x", "-5s", "h", [1]])
def test_other_durations_are_refused(given: object) -> None:
    with pytest.raises(Refused, match="invalid duration"):
        seconds(given)


@pytest.mark.parametrize(("duration", "text"), [(3600, "1h"), (25, "25s"), (5400, "1h30m"), (0, "0s")])
def test_durations_are_written(duration: int, text: str) -> None:
    assert written(duration) == text


def test_grants_set_the_time_left_and_are_cut_at_the_maximum() -> None:
    # The figures of a role of 10 s / 25 s on a real server: asked 0, 16 and 22 s after the issue.
    assert grant(now=100, start=100, wanted=0, default=10, most=25) == (10, [])
    assert grant(now=101, start=100, wanted=5, default=10, most=25) == (5, [])
    nine, warnings = grant(now=116, start=100, wanted=0, default=10, most=25)
    assert (nine, warnings) == (9, ['TTL of "10s" exceeded the effective max_ttl of "9s"; TTL value is capped accordingly'])
    assert grant(now=122, start=100, wanted=0, default=10, most=25)[0] == 3
    assert grant(now=100, start=100, wanted=0, default=0, most=0) == (2764800, [])
    with pytest.raises(Refused, match="past the max TTL"):
        grant(now=126, start=100, wanted=0, default=10, most=25)
