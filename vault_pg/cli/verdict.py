"""What the demo was to show, what it showed, and whether that is enough."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from vault_pg.cli.load import Meter, percentile
from vault_pg.cli.record import Record
from vault_pg.cli.wording import count, duration

ROTATIONS_WANTED = 5
FAILURES_SHOWN = 5

AROUND = (0.4, 0.25)
"""Seconds before and after a swap that count as around it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the user asked for; times in seconds."""

    seconds: float
    clients: int
    ttl: int
    max_ttl: int
    max_size: int

    @property
    def token_ttl(self) -> int:
        """Longer than a lease, and over, max TTL included, before a run of the usual length is."""
        return 2 * self.max_ttl

    @property
    def seconds_needed(self) -> int:
        """A run that surely makes the rotations wanted: each comes at the latest at max TTL."""
        return (ROTATIONS_WANTED + 1) * self.max_ttl


@dataclass(frozen=True, slots=True)
class Leftovers:
    roles: int
    leases: int
    connections: int


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    found: str
    passed: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run went; times in seconds."""

    lasted: float
    planned: float
    meter: Meter
    record: Record

    def checks(self, plan: Plan, left: Leftovers) -> list[Check]:
        meter = self.meter
        return [
            Check("rotations", self._rotations(plan), len(self.record.swaps) >= ROTATIONS_WANTED),
            Check("queries", f"{meter.queries} made", meter.queries > 0),
            Check("failed queries", str(meter.failed), not meter.failed),
            Check("roles left", str(left.roles), not left.roles),
            Check("leases left", str(left.leases), not left.leases),
            Check("connections left", str(left.connections), not left.connections),
        ]

    def _rotations(self, plan: Plan) -> str:
        made = len(self.record.swaps)
        if made >= ROTATIONS_WANTED:
            return f"{made} (at least {ROTATIONS_WANTED} wanted)"
        if self.lasted < self.planned:
            return f"{made} of at least {ROTATIONS_WANTED}: it was stopped after {duration(self.lasted)}"
        if self.planned < plan.seconds_needed:
            advice = f"use --seconds {plan.seconds_needed} or a lower --max-ttl"
            return f"{made} of at least {ROTATIONS_WANTED}: too few fit in {duration(self.planned)}; {advice}"
        return f"{made} of at least {ROTATIONS_WANTED}"


def print_summary(console: Console, plan: Plan, outcome: Outcome, left: Leftovers) -> None:
    for line in ["", *_figures(plan, outcome), ""]:
        console.print(line, soft_wrap=True)
    checks = outcome.checks(plan, left)
    width = max(len(check.name) for check in checks)
    for check in checks:
        mark = ("✓", "bold green") if check.passed else ("✗", "bold red")
        found = (check.found, "" if check.passed else "red")
        console.print(Text.assemble("  ", mark, f" {check.name:<{width}}  ", found), soft_wrap=True)
    for failure, times in outcome.meter.failures.most_common(FAILURES_SHOWN):
        console.print(Text(f"    {count(times, 'time')}: {failure}", "red"), soft_wrap=True)


def _figures(plan: Plan, outcome: Outcome) -> list[str]:
    record, meter = outcome.record, outcome.meter
    around, steady = meter.split(record.swaps, *AROUND)
    p50 = milliseconds(percentile(meter.since(float("-inf")), 50))
    load = f"{count(meter.queries, 'query', 'queries')} by {count(plan.clients, 'client')} on a pool of {plan.max_size}"
    steadily, at_swaps = milliseconds(percentile(steady, 99)), milliseconds(percentile(around, 99))
    generations = f"at most {count(record.most_generations, 'generation')} at a time"
    logins = f"{count(record.logins, 'login')} to Vault, {count(record.token_renewals, 'token renewal')}"
    return [
        f"{duration(outcome.lasted)}, {load}, leases of {plan.ttl} s with max TTL {plan.max_ttl} s",
        f"checkout and first query: p50 {p50}, p99 {steadily}, p99 around rotations {at_swaps}",
        f"{count(record.renewals, 'renewal')}, {generations}, {logins}",
    ]


def milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.1f} ms"
