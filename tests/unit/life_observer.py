"""Watches a manager from outside, from what goes over the wire and what clients get, and believes none of its own figures."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from tests.unit.life_plan import Plan
from tests.unit.living_postgres import LivingPostgres
from tests.unit.living_vault import Exchange, LivingVault
from vault_pg.events import Event, LeasesLeftBehind, RevocationFailed, TaskDied
from vault_pg.manager.keeper import LOST_GRACE
from vault_pg.manager.ledger import BURST, MOST_LIVE, REFILL

MOMENT = 0.05
"""Seconds by which what happens at one instant may differ."""

WINDOW = 60.0
MINTS = int(BURST + WINDOW / REFILL)
REQUESTS = 90
"""Requests to Vault in a window, for each database and for the token. A quiet hour has two or three; the most come as an end is near."""

PROBES = 150
"""Probes in a window, whatever the number of databases: the most are made where each of them works and nothing else does."""

EARLY = 10.0
"""Seconds that a request may wait before it is sent to a Vault that is away. What it is granted counts from before that."""

PROBING = {"sys/health", "ask_health", "auth/token/lookup-self", "look_up_self"}
"""Paths, and calls of which no request came to Vault."""

REVOKING = {"auth/token/revoke-self", "revoke_self"}
"""Not counted where tokens are of few uses: while PostgreSQL is away issues that fail use up one after another, no lease ends
meanwhile, and after hours of it hundreds are revoked, one at a time."""

PROBED = 15.0
"""Seconds until a call finds out that a token is dead of which a probe was told so: to a probe that is an answer, and no more."""

ORPHANED = 60.0
"""Seconds after which nobody's lease should be gone, with Vault well."""


class Observer:
    def __init__(self, plan: Plan, clock: Callable[[], float], vault: LivingVault, postgres: LivingPostgres) -> None:
        self.plan, self.clock, self.vault, self.postgres = plan, clock, vault, postgres
        self.violations: list[str] = []
        self.events: list[Event] = []
        self.leapt_at = -math.inf
        """When a clock last leapt, or the loop stood still."""
        self.calm_since: float | None = None
        self.asked_for = 0
        self.mints: list[tuple[float, str]] = []
        self._ends: dict[str, float] = {}
        """By user: until when its lease was granted, as far as the manager has heard."""
        self._aged: dict[str, float] = {}
        self._users: dict[str, str] = {}
        """Of leases that the manager has heard of."""
        self._token_of: dict[str, str] = {}
        self._token_ends: dict[str, float] = {}
        self._gone: dict[str, float] = {}
        """Users whose lease the manager has heard to be gone, or has revoked: since when."""
        self._given_up: set[str] = set()
        """Leases that Vault cannot end before their time."""
        self._served: dict[str, str] = {}
        self._needed_at: dict[str, float] = {}
        self._window: deque[tuple[float, str]] = deque()
        self.seconds: Counter[int] = Counter()
        """Requests that came to Vault, by the second."""

    def blame(self, what: str) -> None:
        self.violations.append(f"{self.clock():.2f}: {what}")

    @property
    def _blinking(self) -> bool:
        """Nobody can know yet that the clocks have parted."""
        return self.clock() <= self.leapt_at + 2 * self.plan.climate.pace + MOMENT

    # -- what the manager tells

    def told(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, TaskDied):
            self.blame(f"{event!r}")

    # -- what goes over the wire

    def sent(self, path: str) -> None:
        now, databases = self.clock(), self.plan.climate.databases
        self.seconds[int(now)] += 1
        if not (self.plan.climate.token.uses and path in REVOKING):
            self._window.append((now, path))
        while self._window and self._window[0][0] <= now - WINDOW:
            self._window.popleft()
        kinds = [path for _, path in self._window]
        probes = sum(path in PROBING for path in kinds)
        if probes > PROBES or len(kinds) - probes > REQUESTS * (databases + 1):
            self.blame(f"a hot loop: { {path: kinds.count(path) for path in sorted(set(kinds))} } within {WINDOW:.0f} s")
            self._window.clear()
        if "/creds/" in path or path == "issue":
            self.mints.append((now, path))
            lately = sum(1 for at, _ in self.mints[-MINTS * databases - self.asked_for - 1 :] if at > now - WINDOW)
            if lately > MINTS * databases + self.asked_for:
                self.blame(f"{lately} leases asked for within {WINDOW:.0f} s")

    def heard(self, sent_at: float, exchanges: list[Exchange]) -> None:
        for exchange in exchanges:
            path, reply, token = exchange.path, exchange.reply, exchange.token
            lease_id = str(exchange.body.get("lease_id"))
            if path == "auth/token/lookup-self" and exchange.says("permission denied"):
                told_at = self.clock() + (PROBED if len(exchanges) == 1 else 0.0)
                for user in [user for user, known in self._token_of.items() if known == token]:
                    self._gone[user] = min(told_at, self._gone.get(user, told_at))
            elif exchange.says("depend on it"):
                self._given_up.add(lease_id)
            elif exchange.says("lease not found") or exchange.says("invalid lease"):
                self._gone.setdefault(self._users[lease_id], self.clock())
            elif isinstance(reply, dict):
                self._granted(path, token, lease_id, sent_at, reply)

    def _granted(self, path: str, token: str, lease_id: str, sent_at: float, reply: dict[str, Any]) -> None:
        if "/creds/" in path:
            user = reply["data"]["username"]
            self._users[reply["lease_id"]] = user
            self._token_of[user] = token
            self._ends[user] = sent_at + reply["lease_duration"]
            self._needed_at[user] = self.clock()
            self._aged[user] = sent_at + (self.plan.climate.max_age or math.inf)
        elif path == "sys/leases/renew":
            self._ends[self._users[lease_id]] = sent_at + reply["lease_duration"]
        elif path == "sys/leases/revoke":
            self._gone.setdefault(self._users[lease_id], self.clock() - LOST_GRACE)
        elif path == "auth/approle/login":
            self._token_ends[reply["auth"]["client_token"]] = sent_at + reply["auth"]["lease_duration"]
        elif path == "auth/token/renew-self":
            self._token_ends[token] = sent_at + reply["auth"]["lease_duration"]
        elif path == "auth/token/lookup-self":
            self._token_ends[token] = max(self._token_ends[token], sent_at + reply["data"]["ttl"])

    def horizon(self, user: str) -> float:
        return min(self._ends[user], self._token_ends[self._token_of[user]], self._aged[user])

    # -- what clients get

    def lent(self, database: str, user: str) -> None:
        """A checkout was given a connection of `user`."""
        now = self.clock()
        self._served[database] = user
        if self._blinking:
            return
        if now > self.horizon(user) + MOMENT:
            self.blame(f"{user} is served {now - self.horizon(user):.1f} s past its horizon")
        if now > self._gone.get(user, now) + LOST_GRACE + MOMENT:
            self.blame(f"{user} is served {now - self._gone[user]:.1f} s after it was known to be gone")

    def refused(self, database: str) -> None:
        """A checkout was told that there is no credential."""
        user = self._served.get(database)
        if user is None or self._blinking or user in self._gone:
            return
        if self.vault.has_role(user) and self.clock() < self.horizon(user) - EARLY:
            self.blame(f"{user} works for {self.horizon(user) - self.clock():.1f} s more, and is refused")

    # -- at any instant

    def look(self) -> None:
        now, alive = self.clock(), self.vault.alive()
        known = {key: held for key, held in alive.items() if key in self._users and key not in self._given_up}
        for role in {held.role for held in known.values()}:
            held = [lease for lease in known.values() if lease.role == role]
            if len(held) > MOST_LIVE:
                self.blame(f"{len(held)} leases of {role} are alive")
            sessions = sum(count for user, count in self.postgres.sessions.items() if user.startswith(f"v-{role}-"))
            if sessions > (most := self.most_sessions):
                self.blame(f"{sessions} sessions of {role}, and {most} are allowed")
        for lease in known.values():
            if self.postgres.sessions[lease.username]:
                self._needed_at[lease.username] = now
            elif self.calm_since is not None:
                idle = now - max(self.calm_since, self._needed_at[lease.username])
                if idle > ORPHANED:
                    self.blame(f"the lease of {lease.username} is alive, and nobody has needed it for {idle:.0f} s")

    @property
    def most_sessions(self) -> int:
        """`max_size` and overlap, and the one that a doubt is settled by."""
        return self.plan.climate.max_size + 1 + 1

    def calm(self) -> None:
        self.calm_since = self.clock()
        self._calm_mints = len(self.mints)
        self._calm_asked = self.asked_for
        self._calm_logins = self.vault.logins

    def trouble(self) -> None:
        """The calm is over: no more was asked for in it than the schedule needs."""
        if self.calm_since is not None:
            climate = self.plan.climate
            seconds = self.clock() - self.calm_since
            life = min(climate.ttl, climate.max_age or math.inf, climate.token.ttl)
            needed = climate.databases * (5 + 4 * seconds / life) + self.asked_for - self._calm_asked
            if (mints := len(self.mints) - self._calm_mints) > needed:
                self.blame(f"{mints} leases asked for in {seconds:.0f} s in which nothing happened")
            logins = self.vault.logins - self._calm_logins
            if not climate.token.uses and logins > 5 + 8 * seconds / climate.token.ttl:
                self.blame(f"{logins} logins in {seconds:.0f} s in which nothing happened")
        self.calm_since = None

    def ended(self, *, in_trouble: bool) -> None:
        """The manager is left."""
        told = {key for event in self.events if isinstance(event, LeasesLeftBehind) for key in event.lease_ids}
        told |= {event.lease_id or "" for event in self.events if isinstance(event, RevocationFailed)}
        alive = set(self.vault.alive())
        if in_trouble or self.plan.climate.token.batch:
            alive &= set(self._users)  # of others nobody can know
            alive -= told
        if alive:
            self.blame(f"{sorted(alive)} are alive after the end")
        if any(self.postgres.sessions.values()):
            self.blame(f"sessions are open after the end: {+self.postgres.sessions}")
