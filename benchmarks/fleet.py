"""A fleet that restarts at once, for 30 hours: how evenly its requests arrive at Vault. A simulation, the same for every schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from random import Random

from benchmarks.backstage import SPAWN
from benchmarks.rules import RULES, Kind

RESTART = 30.0
"""Seconds within which all services start."""

HOURS = 30
BIN = 10
"""Seconds over which requests are counted together."""

WINDOWS = ((0.1, 3.0), (3.0, 12.0), (12.0, 30.0))
"""Hours. The first six minutes are the restart itself."""

COUNTED: dict[str, frozenset[Kind]] = {
    "": frozenset({Kind.ISSUE, Kind.RENEW}),
    " + revocations": frozenset({Kind.ISSUE, Kind.RENEW, Kind.REVOKE}),
    " + revocations + token renewals": frozenset(Kind),
}
"""What is counted, by what is added to the schedule's name. Peers are counted by the first alone."""

PORTION = 5_000
"""Services simulated at a time, in one process."""

AT_MOST = 100_000
"""Services simulated of one size of fleet, in as many rounds as that allows."""

Bins = dict[Kind, list[int]]


@dataclass(frozen=True, slots=True)
class Job:
    rule: str
    services: int
    seed: str


@dataclass(frozen=True, slots=True)
class Row:
    """One schedule in one size of fleet. `peaks`: for each of WINDOWS the busiest bin over the mean; of several rounds the worst."""

    schedule: str
    services: int
    rounds: int
    requests: float
    """A service and hour."""
    peaks: list[float]


def simulate(job: Job, *, every: int = BIN) -> Bins:
    """Requests by kind, in bins of `every` seconds."""
    dice = Random(job.seed)  # noqa: S311 - chance in a simulation
    end = HOURS * 3600
    bins: Bins = {kind: [0] * (end // every) for kind in Kind}
    for _ in range(job.services):
        start = dice.random() * RESTART
        for chain in RULES[job.rule]:
            for at, kind in chain(dice, start):
                if at >= end:
                    break
                bins[kind][int(at) // every] += 1
    return bins


def together(parts: Iterable[Bins]) -> Bins:
    """The requests of several parts of one fleet."""
    columns = list(parts)
    return {kind: [sum(counts) for counts in zip(*(part[kind] for part in columns), strict=True)] for kind in Kind}


def peaks(bins: Bins, kinds: Iterable[Kind]) -> list[float]:
    """For each of WINDOWS: the busiest bin over the mean."""
    counts = [sum(column) for column in zip(*(bins[kind] for kind in kinds), strict=True)]
    a_bin = HOURS / len(counts)
    parts = (counts[round(low / a_bin) : round(high / a_bin)] for low, high in WINDOWS)
    return [max(part) * len(part) / sum(part) for part in parts]


def requests(bins: Bins, kinds: Iterable[Kind], services: int) -> float:
    """A service and hour."""
    return sum(sum(bins[kind]) for kind in kinds) / services / HOURS


def run(sizes: Sequence[int], *, seed: int, tell: Callable[[str], object]) -> list[Row]:
    """Every schedule in every size of fleet, on all cores."""
    rows = list[Row]()
    with ProcessPoolExecutor(mp_context=SPAWN) as pool:
        for services in sizes:
            rounds = max(1, min(5, AT_MOST // services))
            for rule in RULES:
                fleets = [together(pool.map(simulate, _jobs(rule, services, f"{seed}/{turn}"))) for turn in range(rounds)]
                rows += _rows(rule, services, fleets)
                tell(f"{services} services, {rule}: {rounds} rounds")
    return rows


def _jobs(rule: str, services: int, seed: str) -> list[Job]:
    return [Job(rule, min(PORTION, services - done), f"{seed}/{rule}/{services}/{done}") for done in range(0, services, PORTION)]


def _rows(rule: str, services: int, fleets: Sequence[Bins]) -> list[Row]:
    counted = COUNTED if rule == "ours" else {"": COUNTED[""]}
    return [
        Row(
            schedule=rule + suffix,
            services=services,
            rounds=len(fleets),
            requests=max(requests(fleet, kinds, services) for fleet in fleets),
            peaks=[max(window) for window in zip(*(peaks(fleet, kinds) for fleet in fleets), strict=True)],
        )
        for suffix, kinds in counted.items()
    ]
