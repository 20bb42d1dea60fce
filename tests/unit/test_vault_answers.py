"""What Vault's refusals mean, held against what a real Vault (1.8.0-dev) said."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from vault_pg.errors import (
    BackendUnavailable,
    LeaseLost,
    MountNotFound,
    NotRenewable,
    PermissionDenied,
    RoleNotFound,
    TokenInvalid,
    VaultError,
    VaultRefused,
    VaultSealed,
    VaultUnavailable,
)
from vault_pg.vault.answers import Question, late, nonsense, origin, refusal

DENIED = "1 error occurred:\n\t* permission denied\n\n"
NO_DATABASE = "dial tcp 127.0.0.1:55432: connect: connection refused"

RECORDED: list[tuple[str, str, str, int, str, type[VaultError]]] = [
    ("token-renew-root", "POST", "auth/token/renew-self", 400, "lease is not renewable", NotRenewable),
    ("token-renew-batch", "POST", "auth/token/renew-self", 400, "batch tokens cannot be renewed", NotRenewable),
    ("token-bad", "GET", "auth/token/lookup-self", 403, "permission denied", PermissionDenied),
    ("token-missing", "GET", "auth/token/lookup-self", 400, "missing client token", TokenInvalid),
    ("creds-bad-token", "GET", "database/creds/app", 403, "permission denied", PermissionDenied),
    ("creds-no-token", "GET", "database/creds/app", 400, "missing client token", TokenInvalid),
    ("approle-login-bad-secret", "POST", "auth/approle/login", 400, "invalid secret id", VaultRefused),
    ("approle-login-bad-role", "POST", "auth/approle/login", 400, "invalid role ID", VaultRefused),
    ("login-unmounted", "POST", "auth/nothere/login", 400, "missing client token", TokenInvalid),
    ("creds-unknown-role", "GET", "database/creds/nothere", 400, "unknown role: nothere", RoleNotFound),
    ("creds-forbidden", "GET", "database/creds/long", 403, DENIED, PermissionDenied),
    (
        "creds-broken-sql",
        "GET",
        "database/creds/broken",
        500,
        '1 error occurred:\n\t* failed to execute query: pq: unrecognized role option "syntax"\n\n',
        BackendUnavailable,
    ),
    ("lease-renew-post-path", "POST", "sys/leases/renew/database/creds/app/x", 403, DENIED, PermissionDenied),
    ("lease-renew-expired", "PUT", "sys/leases/renew", 400, "lease not found", LeaseLost),
    ("lease-lookup-expired", "PUT", "sys/leases/lookup", 400, "invalid lease", LeaseLost),
    ("lease-renew-empty", "PUT", "sys/leases/renew", 400, "lease_id must be specified", VaultRefused),
    ("static-creds-unknown", "GET", "database/static-creds/nothere", 400, "unknown role: nothere", RoleNotFound),
    ("unknown-path", "GET", "nothing/here", 404, "no handler for route 'nothing/here'", MountNotFound),
    (
        "creds-db-down",
        "GET",
        "database/creds/app",
        500,
        f"1 error occurred:\n\t* unable to start transaction: {NO_DATABASE}\n\n",
        BackendUnavailable,
    ),
    (
        "lease-renew-db-down",
        "PUT",
        "sys/leases/renew",
        400,
        f"failed to renew entry: resp: (*logical.Response)(nil) err: 1 error occurred:\n\t* {NO_DATABASE}\n\n",
        BackendUnavailable,
    ),
    ("sealed-creds", "GET", "database/creds/app", 503, "error performing token check: Vault is sealed", VaultSealed),
    ("sealed-renew", "PUT", "sys/leases/renew", 503, "error performing token check: Vault is sealed", VaultSealed),
]

OTHERS: list[tuple[str, str, str, int, str, type[VaultError]]] = [
    (
        "newer: bad token",
        "GET",
        "database/creds/app",
        403,
        "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n",
        TokenInvalid,
    ),
    ("newer: bad token alone", "GET", "database/creds/app", 403, "bad token", TokenInvalid),
    (
        "newer: lease that could not be revoked",
        "PUT",
        "sys/leases/renew",
        400,
        "lease is expired and has failed previous revocation attempts",
        LeaseLost,
    ),
    (
        "newer: lease of a dead batch token",
        "PUT",
        "sys/leases/renew",
        400,
        "cannot renew lease, no valid associated token",
        LeaseLost,
    ),
    ("newer: sealed namespace", "GET", "database/creds/app", 503, "namespace is sealed", VaultSealed),
    ("OpenBao: no such namespace", "GET", "database/creds/app", 404, "namespace not found", MountNotFound),
    ("OpenBao: no such namespace to log in", "POST", "auth/approle/login", 404, "namespace not found", MountNotFound),
    ("no namespaces at all", "GET", "database/creds/app", 403, "namespaces feature not enabled", MountNotFound),
    (
        "the user's policies were changed",
        "POST",
        "auth/token/renew-self",
        500,
        "1 error occurred:\n\t* failed to renew entry: policies have changed, not renewing\n\n",
        NotRenewable,
    ),
    (
        "the AppRole is gone",
        "POST",
        "auth/token/renew-self",
        500,
        '1 error occurred:\n\t* failed to renew entry: role "app" does not exist during renewal\n\n',
        NotRenewable,
    ),
    (
        "the login's server is away",
        "POST",
        "auth/token/renew-self",
        500,
        "failed to renew entry: LDAP: timeout",
        VaultUnavailable,
    ),
    ("newer: token without a lease", "POST", "auth/token/renew-self", 400, "invalid lease ID", NotRenewable),
    (
        "not an allowed role",
        "GET",
        "database/creds/app",
        500,
        '1 error occurred:\n\t* "app" is not an allowed role\n\n',
        RoleNotFound,
    ),
    (
        "role owns objects, told at length",
        "PUT",
        "sys/leases/revoke",
        400,
        "failed to revoke entry: resp: (*logical.Response)(nil) err: could not perform all revocation statements: "
        + 'ERROR: role "v-app-x" has to go first. ' * 20
        + "ERROR: cannot be dropped because some objects depend on it (SQLSTATE 2BP01)",
        VaultRefused,
    ),
    ("newer: too many leases", "GET", "database/creds/app", 429, "lease count quota exceeded", VaultUnavailable),
    ("newer: no token", "GET", "database/creds/app", 403, "missing client token", TokenInvalid),
    ("older: lease gone", "PUT", "sys/leases/renew", 400, "lease not found or lease is not renewable", LeaseLost),
    ("older: root token", "POST", "auth/token/renew-self", 400, "lease not found or lease is not renewable", NotRenewable),
    ("lease expired", "PUT", "sys/leases/renew", 400, "lease expired", LeaseLost),
    ("lease not renewable", "PUT", "sys/leases/renew", 400, "lease is not renewable", NotRenewable),
    (
        "role dropped by hand",
        "PUT",
        "sys/leases/renew",
        400,
        'failed to renew entry: resp: (*logical.Response)(nil) err: 1 error occurred:\n\t* pq: role "v-app-x" does not exist\n\n',
        LeaseLost,
    ),
    (
        "role no longer configured",
        "PUT",
        "sys/leases/renew",
        400,
        'failed to renew entry: resp: (*logical.Response)(nil) err: error during renew: could not find role with name "app"',
        NotRenewable,
    ),
    (
        "role owns objects",
        "PUT",
        "sys/leases/revoke",
        400,
        'failed to revoke entry: resp: (*logical.Response)(nil) err: role "v-app-x" cannot be dropped because some objects depend on it',
        VaultRefused,
    ),
    ("revoke, database down", "PUT", "sys/leases/revoke", 400, f"failed to revoke entry: err: {NO_DATABASE}", BackendUnavailable),
    ("no database engine", "GET", "kv/creds/app", 405, "1 error occurred:\n\t* unsupported operation\n\n", MountNotFound),
    (
        "creds, no leader",
        "GET",
        "database/creds/app",
        500,
        "local node not active but active cluster node not found",
        VaultUnavailable,
    ),
    ("behind the leader", "GET", "database/creds/app", 412, "required index state not present", VaultUnavailable),
    ("quota", "GET", "database/creds/app", 429, 'request path "database/creds/app": rate limit quota exceeded', VaultUnavailable),
    ("DR secondary", "GET", "database/creds/app", 472, "", VaultUnavailable),
    ("performance standby", "GET", "database/creds/app", 473, "", VaultUnavailable),
    ("not initialised", "GET", "database/creds/app", 501, "Vault is not initialized", VaultUnavailable),
    ("load balancer", "GET", "database/creds/app", 502, "", VaultUnavailable),
    ("load balancer", "GET", "database/creds/app", 503, "", VaultUnavailable),
    ("redirect nowhere", "GET", "database/creds/app", 307, "", VaultUnavailable),
    ("wrong scheme", "GET", "database/creds/app", 400, "Client sent an HTTP request to an HTTPS server", VaultUnavailable),
    ("a proxy's own login", "GET", "database/creds/app", 401, "", VaultRefused),
]


def ask(method: str, path: str, status: int, *errors: str, **headers: str) -> VaultError:
    question = Question("https://vault.example.com:8200", method, path, hidden=("hvs.secret",))
    return refusal(question, status, errors, {name.replace("_", "-"): value for name, value in headers.items()})


@pytest.mark.parametrize(
    ("method", "path", "status", "text", "expected"),
    [row[1:] for row in RECORDED + OTHERS],
    ids=[row[0] for row in RECORDED + OTHERS],
)
def test_each_refusal_has_one_meaning(method: str, path: str, status: int, text: str, expected: type[VaultError]) -> None:
    error = ask(method, path, status, *filter(None, [text]))
    assert type(error) is expected
    assert "https://vault.example.com:8200" in str(error)
    assert "\n" not in str(error)
    assert "{" not in str(error).replace('{ capabilities = ["', "")


def test_transient_is_what_may_work_later() -> None:
    assert ask("GET", "database/creds/app", 500, NO_DATABASE).transient
    assert ask("GET", "database/creds/app", 503, "Vault is sealed").transient
    assert not ask("GET", "database/creds/app", 400, "unknown role: app").transient


def test_a_missing_right_names_path_capability_and_policy_line() -> None:
    error = ask("PUT", "sys/leases/renew", 403, DENIED)
    assert isinstance(error, PermissionDenied)
    assert (error.path, error.capability) == ("sys/leases/renew", "update")
    assert 'path "sys/leases/renew" { capabilities = ["update"] }' in str(error)
    denied = ask("GET", "database/creds/app", 403, DENIED)
    assert isinstance(denied, PermissionDenied)
    assert denied.capability == "read"
    assert str(denied) == (
        "Vault at https://vault.example.com:8200 does not allow this token to read database/creds/app: if role and mount are right "
        '(VAULT_PG_ROLE, VAULT_PG_MOUNT), its policy needs path "database/creds/app" { capabilities = ["read"] }'
    )
    assert "VAULT_PG_ROLE" not in str(error)


def test_an_unknown_role_is_named_with_its_mount() -> None:
    assert "no role 'nothere' at team/db/" in str(ask("GET", "team/db/creds/nothere", 400, "unknown role: nothere"))


def test_only_what_no_waiting_can_mend_is_hopeless() -> None:
    wrong_scheme = ask("GET", "auth/token/lookup-self", 400, "Client sent an HTTP request to an HTTPS server")
    assert isinstance(wrong_scheme, VaultUnavailable)
    assert wrong_scheme.hopeless
    for status in (307, 412, 429, 472, 473, 500, 501, 502, 503):
        error = ask("GET", "database/creds/app", status)
        assert isinstance(error, VaultUnavailable)
        assert not error.hopeless


def test_a_path_in_the_address_is_doubted_first() -> None:
    question = Question("https://vault:8200/ui", "GET", "auth/token/lookup-self")
    assert (
        str(nonsense(question))
        == "Vault at https://vault:8200 answered nonsense to auth/token/lookup-self: is /ui in its address right?"
    )


@pytest.mark.parametrize(
    ("timeout", "words"),
    [
        (None, "in time"),
        (10.0, "within 10 s"),
        (9.98, "within 10 s"),
        (0.2, "within the 0.2 s that were left for it"),
        (4.0, "within the 4 s that were left for it"),
    ],
)
def test_a_time_out_says_when_it_was_cut_short(timeout: float | None, words: str) -> None:
    question = Question("https://vault:8200", "PUT", "sys/leases/renew")
    assert str(late(question, timeout, 10.0)) == f"Vault at https://vault:8200 did not answer sys/leases/renew {words}"


def test_sealed_says_how_to_unseal() -> None:
    assert str(ask("GET", "sys/x", 503, "Vault is sealed")) == (
        "Vault at https://vault.example.com:8200 is sealed: unseal it (vault operator unseal)"
    )


def test_retry_after_in_seconds_or_as_a_date() -> None:
    in_seconds = ask("GET", "a/creds/b", 429, Retry_After="7")
    assert isinstance(in_seconds, VaultUnavailable)
    assert in_seconds.retry_after == 7
    as_date = ask("GET", "a/creds/b", 503, Retry_After=format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True))
    assert isinstance(as_date, VaultUnavailable)
    assert as_date.retry_after == pytest.approx(3600, abs=60)
    for useless in ("", "soon", "-1", "1e999"):
        error = ask("GET", "a/creds/b", 429, Retry_After=useless)
        assert isinstance(error, VaultUnavailable)
        assert error.retry_after is None


def test_nothing_secret_is_quoted() -> None:
    error = ask(
        "GET",
        "sys/x",
        400,
        "no good: hvs.secret, password=hunter2 at postgresql://bob:hunter3@db/app; token: hunter4 " + "x" * 1000,
    )
    assert "hvs.secret" not in str(error)
    assert "hunter" not in str(error)
    assert len(str(error)) < 450


def test_a_text_with_braces_is_quoted_as_it_is() -> None:
    assert "{role} {0}" in str(ask("PUT", "sys/leases/renew", 400, "lease is not renewable {role} {0}"))


def test_the_origin_of_an_address_has_no_credentials() -> None:
    assert origin("https://bob:pw@vault:8200/v1/x?y=z") == "https://vault:8200"
    assert origin("bob:pw@vault") == "vault"
    assert "pw" not in repr(Question("https://bob:pw@v", "GET", "x", ("pw",)).vault)
