"""Vault does not answer: what is made of each sign of it, as values and pure functions of them.

One failed call is a doubt: it may be that call's own trouble, such as one database that hangs behind Vault. Probes tell: one that
fails too makes it an outage, two that work dispel it. While outages come and go (every second request is refused, say) one that
works is enough, and the pauses go on where they were.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from vault_pg.clock import Instant
from vault_pg.errors import VaultUnavailable

SHORTEST, LONGEST = 0.3, 3.5
"""Seconds from one probe to the next, at first and at most, half of it by chance: every process that lost Vault counts on its own, and
each has to notice Vault's return, and to be served by it, within 5 s."""

LONGEST_WISH = 30.0
"""Seconds up to which a Retry-After is honoured as the least pause."""

UNSTEADY = 30.0
"""Seconds after an outage in which the next sign is taken for its continuation."""

PROOFS = 2
"""Probes that have to work before a doubt is dispelled: of a Vault that refuses every second request one of them is refused."""

MANY = 10
"""Calls that fail in one doubt, with none answered in between, after which an answer of sys/health dispels it no more: a load balancer
may give that by itself."""

TRIAL, PRESSED_TRIAL = LONGEST, 0.3
"""Seconds after one call that was let through in an outage until another is, and the same where its lease or token is about to end.
A probe may be wrong: Vault may be slower than probes wait for, or refuse that one path alone."""


@dataclass(frozen=True, slots=True)
class Outage:
    """From the first failed call to the first answer, or to the proof that there is none."""

    since: Instant
    error: VaultUnavailable
    """The latest failure."""
    level: int = 0
    """How far the pauses have grown."""
    confirmed: bool = False
    """Probes fail as well: calls are refused with the reason."""
    proofs: int = 0
    heard: bool = False
    """Another call was answered since the latest failure."""
    unsteady: bool = False
    """It began soon after one that was confirmed."""
    failures: int = 1
    """Calls that failed since one was answered."""
    deaf: bool = False
    """Probes are answered, but calls are not: only a call's answer ends it."""


def doubt(error: VaultUnavailable, now: Instant, last: tuple[Instant, int] | None) -> Outage:
    """A call failed while all seemed well. `last`: when the latest outage was over, and its level."""
    if last is None or now - last[0] > UNSTEADY:
        return Outage(now, error)
    return Outage(now, error, level=last[1] + 1, unsteady=True)


def after_failed_call(outage: Outage, error: VaultUnavailable) -> Outage:
    return replace(outage, error=error, heard=False, failures=outage.failures + 1)


def after_failed_probe(outage: Outage, error: VaultUnavailable) -> Outage:
    return replace(outage, error=error, heard=False, confirmed=True, level=outage.level + 1, deaf=False)


def after_call(outage: Outage) -> Outage | None:
    """A call was answered, whatever the answer says. None: it is over."""
    return None if outage.confirmed else replace(outage, heard=True, failures=0)


def after_probe(outage: Outage, *, serves: bool = True) -> Outage | None:
    """The same of a probe. `serves`: its answer shows that calls are served, too."""
    if not serves and (outage.deaf or (not outage.confirmed and outage.failures >= MANY)):
        return replace(outage, confirmed=True, deaf=True, level=outage.level + 1)
    if outage.confirmed or outage.unsteady or outage.proofs + 1 >= PROOFS:
        return None
    return replace(outage, heard=True, proofs=outage.proofs + 1)


def pause(outage: Outage, draw: float) -> float:
    """Seconds from the latest probe, or the beginning, to the next."""
    most = min(LONGEST, SHORTEST * 2.0 ** min(outage.level, 16))
    wait = most * (1 + draw) / 2
    wish = outage.error.retry_after
    return wait if wish is None else max(wait, min(wish * (1 + 0.1 * draw), LONGEST_WISH))


def refuses(outage: Outage | None, *, tried: float, pressed: bool) -> bool:
    """Whether a call is not made at all, the latest one that was having ended `tried` seconds ago."""
    return outage is not None and outage.confirmed and tried < (PRESSED_TRIAL if pressed else TRIAL)
