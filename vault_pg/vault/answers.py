"""What Vault's answers mean: from status, error texts and headers to our errors.

Vault says very different things with one status (400 is a lost lease, a database that is down, a wrong role …), so the table
reads the text. Nothing else of an answer is quoted than Vault's own `errors`, and those without anything secret.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TypeAlias
from urllib.parse import unquote, urlsplit

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

QUOTE_LIMIT = 300
"""Characters of Vault's own text that a message quotes."""

CUT_SHORT = 0.9
"""Of the usual time-out: a request that had less than that had it because something was about to end."""

CAPABILITIES = {"get": "read", "list": "list", "put": "update", "post": "update", "delete": "delete"}

_Plain: TypeAlias = type[
    TokenInvalid | LeaseLost | NotRenewable | RoleNotFound | MountNotFound | VaultRefused | BackendUnavailable
]


def origin(url: str) -> str:
    """Scheme, host and port of a URL, or of several with commas between; neither path nor the credentials that it may hold."""
    if "," in url:
        return ", ".join(map(origin, url.split(",")))
    parts = urlsplit(url)
    if parts.scheme in {"unix", "http+unix"}:
        return f"unix://{unquote(parts.netloc + parts.path if parts.scheme == 'unix' else parts.netloc)}"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts.netloc else parts.path.rpartition("@")[2]


@dataclass(frozen=True, slots=True)
class Question:
    """One request, as far as messages speak of it."""

    address: str
    method: str
    path: str
    """Without the leading /v1/."""
    hidden: tuple[str, ...] = field(default=(), repr=False)
    """Secrets sent along, which must never be quoted back."""

    @property
    def vault(self) -> str:
        return f"Vault at {origin(self.address)}"

    @property
    def capability(self) -> str:
        return CAPABILITIES.get(self.method.lower(), "update")

    def words(self, errors: tuple[str, ...]) -> str:
        """Vault's own words on one line, without secrets."""
        text = " ".join("; ".join(errors).split())
        text = re.sub(r"\d+ errors? occurred: \* ", "", text).replace(" * ", "; ")
        for secret in self.hidden:
            text = text.replace(secret, "***")
        text = re.sub(r"(?i)\b(?<!validating )(password|passwd|pwd|secret_id|token)\b(\s*[=:]\s*)\S+", r"\1\2***", text)
        return re.sub(r"://[^/\s@]*@", "://***@", text)


@dataclass(frozen=True, slots=True)
class _Rule:
    """What one kind of refusal means. Sentences may use vault, path, mount, role, capability and said."""

    error: _Plain
    sentence: str
    statuses: tuple[int, ...]
    text: str = ""
    path: str = ""

    def fits(self, question: Question, status: int, said: str) -> bool:
        return (
            status in self.statuses
            and re.search(self.text, said, re.IGNORECASE) is not None
            and re.search(self.path, question.path) is not None
        )


def _quoted(words: str) -> str:
    return words if len(words) <= QUOTE_LIMIT else words[: QUOTE_LIMIT - 1] + "…"


_BAD = (400,)
_DENIED = (400, 403)
_NOT_FOUND = (404, 405)
_CREDS = r"/(static-)?creds/"
_DATABASE = (
    r"dial tcp|dial unix|transaction|\bpq:|sqlstate|failed to connect|verifying connection|execute query|"
    r"connection refused|connection reset|no such host|server closed|bad connection|too many clients"
)

RULES = (
    _Rule(TokenInvalid, "{vault} was asked without a token: set VAULT_TOKEN or another login", _DENIED, "missing client token"),
    _Rule(
        TokenInvalid,
        "{vault} does not accept the token (expired, revoked or mistyped): unless a login or a file brings the next one by itself, "
        "give another in its place and start anew",
        _DENIED,
        r"\b(invalid|bad) token",
    ),
    # Older servers say "lease not found or lease is not renewable" of an unknown lease, and of a root token.
    _Rule(NotRenewable, "{vault} cannot renew the token: {said}", _BAD, "renew|invalid lease", path=r"^auth/token/renew"),
    # No later renewal will work either, and a new login may.
    _Rule(
        NotRenewable,
        "{vault} renews the token no more, because what it was given for has changed since: {said}",
        (500,),
        r"policies have changed|does not exist|role.* not found|not matching client identity",
        path=r"^auth/token/renew",
    ),
    _Rule(
        MountNotFound,
        "{vault} does not know the namespace ({said}): correct VAULT_NAMESPACE",
        (403, 404),
        "namespace not found|no namespace|namespaces feature not enabled",
    ),
    # The role behind the lease was dropped by hand: no later renewal can work, and nobody can log in with it.
    _Rule(
        LeaseLost,
        "{vault} still knows the lease, but PostgreSQL no longer has its role: {said}",
        _BAD,
        r'failed to renew entry.*role \\?"[^"]*" does not exist',
    ),
    _Rule(
        NotRenewable,
        "{vault} cannot renew the lease, because its role is no longer configured or its max TTL is over: {said}",
        _BAD,
        "failed to renew entry.*(could not find role|past the max ttl)",
    ),
    _Rule(
        BackendUnavailable,
        "{vault} cannot renew the lease, because it does not reach the database: {said}",
        _BAD,
        "failed to renew entry",
    ),
    _Rule(
        VaultRefused,
        "{vault} cannot drop the lease's PostgreSQL role, because it still owns objects: let the revocation_statements of the "
        "role reassign or drop them ({said})",
        (400, 500),
        "depend on it",
    ),
    _Rule(BackendUnavailable, "{vault} cannot revoke the lease now: {said}", (400, 500), "failed to revoke entry"),
    # Without its batch token the lease is over, although Vault may not have revoked it yet.
    _Rule(
        LeaseLost,
        "{vault} no longer knows the lease: {said}",
        _BAD,
        "lease not found|invalid lease|lease (is )?expired|no valid associated token",
    ),
    _Rule(NotRenewable, "{vault} cannot renew the lease: {said}", _BAD, "not renewable|cannot be renewed|past the max ttl"),
    _Rule(
        RoleNotFound,
        "{vault} has no static role '{role}' at {mount}/: create {mount}/static-roles/{role} or correct VAULT_PG_ROLE",
        (400, 404),
        "unknown role",
        "/static-creds/",
    ),
    _Rule(
        RoleNotFound,
        "{vault} has no role '{role}' at {mount}/: create {mount}/roles/{role} or correct VAULT_PG_ROLE",
        (400, 404),
        "unknown role",
    ),
    _Rule(
        RoleNotFound,
        "{vault} does not let role '{role}' use its connection: add it to the allowed_roles in {mount}/config/",
        (400, 403, 500),
        "is not an allowed role",
        _CREDS,
    ),
    _Rule(
        MountNotFound,
        "{vault} has nothing mounted at {path}: correct VAULT_PG_MOUNT (or VAULT_NAMESPACE), or enable the secrets engine there",
        _NOT_FOUND,
        "no handler for route",
    ),
    _Rule(
        MountNotFound,
        "{vault} does not serve {path} ({said}): is {mount}/ a database secrets engine? Correct VAULT_PG_MOUNT",
        _NOT_FOUND,
        path=_CREDS,
    ),
    _Rule(
        BackendUnavailable, "{vault} cannot make a role for {path} in the database: {said}", (500, 502, 503), _DATABASE, _CREDS
    ),
    _Rule(BackendUnavailable, "{vault} does not reach the database: {said}", (500,), _DATABASE, "^sys/leases/"),
)


def refusal(question: Question, status: int, errors: tuple[str, ...], headers: Mapping[str, str]) -> VaultError:
    """The error that an answer with a status other than 2xx means. `errors` are Vault's own, none where it isn't JSON."""
    words = question.words(errors)
    said = _quoted(words)
    if status == HTTPStatus.BAD_REQUEST and "HTTP request to an HTTPS server" in said:
        return VaultUnavailable(f"{question.vault} speaks TLS: write https:// in its address", hopeless=True)
    unavailable = _unavailable(question, status, said, _retry_after(headers))
    if isinstance(unavailable, VaultSealed):
        return unavailable
    for rule in RULES:
        if rule.fits(question, status, words):
            mount, _, role = question.path.rpartition("/")
            mount = re.sub(r"/(static-)?creds$", "", mount)
            return rule.error(
                rule.sentence.format(
                    vault=question.vault, path=question.path, mount=mount, role=role, said=said or f"status {status}"
                )
            )
    if status == HTTPStatus.FORBIDDEN:
        # Vault says the same of a role or a mount that does not exist.
        doubt = "if role and mount are right (VAULT_PG_ROLE, VAULT_PG_MOUNT), " if re.search(_CREDS, question.path) else ""
        return PermissionDenied(
            f"{question.vault} does not allow this token to {question.capability} {question.path}: {doubt}its policy needs "
            f'path "{question.path}" {{ capabilities = ["{question.capability}"] }}',
            path=question.path,
            capability=question.capability,
        )
    if unavailable is not None:
        return unavailable
    return VaultRefused(f"{question.vault} refuses {question.path} with status {status}: {said or 'it does not say why'}")


def _unavailable(question: Question, status: int, said: str, retry_after: float | None) -> VaultUnavailable | None:
    """Vault cannot answer now, as told by status or text; None where it could."""
    tail = f" ({said})" if said else ""
    # Its health has no words for it.
    unwell = question.path == "sys/health" and status == HTTPStatus.SERVICE_UNAVAILABLE
    if unwell or (status >= HTTPStatus.INTERNAL_SERVER_ERROR and "sealed" in said.lower()):
        return VaultSealed(f"{question.vault} is sealed: unseal it (vault operator unseal)", retry_after=retry_after)
    reasons = {
        HTTPStatus.REQUEST_TIMEOUT: "gave up waiting for the request",
        HTTPStatus.PRECONDITION_FAILED: "has not caught up with its leader yet",
        HTTPStatus.TOO_MANY_REQUESTS: "takes no more requests for now (a quota)",
        472: "is a disaster recovery secondary, which serves no requests",
        473: "is a performance standby, which cannot serve this request",
        HTTPStatus.NOT_IMPLEMENTED: "is not initialised: vault operator init",
    }
    if status in reasons:
        return VaultUnavailable(f"{question.vault} {reasons[status]}{tail}", retry_after=retry_after)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        return VaultUnavailable(f"{question.vault} cannot answer now: status {status}{tail}", retry_after=retry_after)
    return None


def nonsense(
    question: Question, status: int | None = None, *, hopeless: bool = False, in_doubt: bool = False
) -> VaultUnavailable:
    """An answer that isn't one of Vault's; a proxy's page, mostly. `hopeless` where it came whole and is clearly somebody else's."""
    what = "nonsense" if status is None else f"nonsense with status {status}"
    path = urlsplit(question.address).path.strip("/")
    doubt = f"is /{path} in its address right?" if path else "is that Vault, or is there a proxy in between?"
    text = f"{question.vault} answered {what} to {question.path}: {doubt}"
    return VaultUnavailable(text, hopeless=hopeless, in_doubt=in_doubt)


def late(question: Question, timeout: float | None = None, most: float = 0.0) -> VaultUnavailable:
    """No whole answer within the time-out. Seconds; `most` is what a request has where nothing presses."""
    return VaultUnavailable(f"{question.vault} did not answer {question.path} {within(timeout, most)}")


def within(timeout: float | None, most: float = 0.0) -> str:
    if timeout is None:
        return "in time"
    seconds = f"{max(0.1, round(timeout, 1)):g} s"
    # A lease, a token or the program was about to end: that Vault is slow is not what such a time-out says.
    return f"within the {seconds} that were left for it" if timeout < most * CUT_SHORT else f"within {seconds}"


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a Retry-After header wishes for, given as seconds or as a date."""
    value = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d+)?", value):
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None
