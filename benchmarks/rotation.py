"""Latency, failures and connections around rotations under load."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from benchmarks.backstage import Backstage, Desk
from benchmarks.contenders import CONTENDERS, Contender, Name, Rotation
from benchmarks.load import Record, Window, drive, percentile

BEFORE, AFTER = 0.4, 0.25
"""Seconds before and after a swap that count as around it."""

WARM_UP = 1.0
"""Seconds at the start of a round that do not count."""

DROP_AFTER = 0.1
"""Seconds from the end of a rotation to the end of the old role."""


@dataclass(frozen=True, slots=True)
class Job:
    """One contender in one round."""

    contender: Name
    clients: int
    round: int
    seconds: float
    every: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one job measured. Latencies are of one checkout and its query, in milliseconds.

    `around` is BEFORE a swap to AFTER it, `steady` the rest; `ratio` compares their p99. A way that takes its time over a rotation pays
    for part of it in `steady`. So `whole` takes in everything from a rotation's start to its end, where these lie further apart, and
    `whole_ratio` compares its p99 with that of `calm`, the time before the first rotation.
    """

    contender: str
    clients: int
    round: int
    queries: int
    failures: dict[str, int]
    steady_p50_ms: float
    steady_p99_ms: float
    around_p50_ms: float
    around_p99_ms: float
    around_max_ms: float
    calm_p99_ms: float
    whole_p99_ms: float
    around_queries: int
    ratio: float
    whole_ratio: float
    cpu_s_per_1000: float
    peak_connections: int = 0
    samples: int = 0
    rotations: list[dict[str, float]] = field(default_factory=list)
    """Seconds from the start of the round."""


def measure(desk: Desk, job: Job) -> Outcome:
    """Run one job in this process."""
    logging.disable()
    return asyncio.run(_measure(desk, job))


async def _measure(desk: Desk, job: Job) -> Outcome:
    site, first = desk.site(), desk.issue()
    contender = CONTENDERS[job.contender](site.conninfo)
    desk.watch()
    await contender.open(first)
    record = Record()
    gc.collect()
    start, cpu = time.monotonic(), time.process_time()
    rotating = asyncio.create_task(_rotate(contender, desk, first.username, start, job))
    await drive(contender, record, job.clients, start + job.seconds)
    cpu = time.process_time() - cpu
    rotations, last = await rotating
    await contender.close()
    sightings = desk.seen()
    desk.drop(last, 0.0)
    return replace(_outcome(job, record, rotations, start, cpu), peak_connections=sightings.peak, samples=sightings.samples)


async def _rotate(contender: Contender, desk: Desk, user: str, start: float, job: Job) -> tuple[list[Rotation], str]:
    """Rotate every `job.every` seconds; the rotations, and the user of the last."""
    rotations = list[Rotation]()
    turn = 1
    while (at := turn * job.every) <= job.seconds - AFTER:
        await asyncio.sleep(start + at - time.monotonic())
        credential = await asyncio.to_thread(desk.issue)
        rotations.append(await contender.rotate(credential))
        old, user = (credential.username, user) if job.contender is Name.RAW else (user, credential.username)
        await asyncio.to_thread(desk.drop, old, DROP_AFTER)
        turn += 1
    return rotations, user


def _outcome(job: Job, record: Record, rotations: Sequence[Rotation], start: float, cpu: float) -> Outcome:
    near: list[Window] = [(r.swap - BEFORE, r.swap + AFTER) for r in rotations]
    wide: list[Window] = [(min(r.start, r.swap - BEFORE), max(r.drained, r.swap + AFTER)) for r in rotations]
    around, steady = record.split(near, since=start + WARM_UP)
    whole, _ = record.split(wide, since=start + WARM_UP)
    calm, _ = record.split([(start + WARM_UP, min(opens for opens, _ in wide))], since=math.inf)
    steady_p99, around_p99 = percentile(steady, 99), percentile(around, 99)
    calm_p99, whole_p99 = percentile(calm, 99), percentile(whole, 99)
    return Outcome(
        contender=job.contender.value,
        clients=job.clients,
        round=job.round,
        queries=len(record.ends) + record.failures.total(),
        failures=dict(record.failures),
        steady_p50_ms=1000 * percentile(steady, 50),
        steady_p99_ms=1000 * steady_p99,
        around_p50_ms=1000 * percentile(around, 50),
        around_p99_ms=1000 * around_p99,
        around_max_ms=1000 * max(around, default=0.0),
        calm_p99_ms=1000 * calm_p99,
        whole_p99_ms=1000 * whole_p99,
        around_queries=len(around),
        ratio=around_p99 / steady_p99,
        whole_ratio=whole_p99 / calm_p99,
        cpu_s_per_1000=1000 * cpu / max(1, len(record.ends)),
        rotations=[{"start": r.start - start, "swap": r.swap - start, "drained": r.drained - start} for r in rotations],
    )


@dataclass(frozen=True, slots=True)
class Summary:
    """All rounds of one contender with so many clients: medians, but failures in all and the highest peak."""

    contender: str
    clients: int
    rounds: int
    queries: int
    failures: dict[str, int]
    steady_p50_ms: float
    steady_p99_ms: float
    around_p99_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float
    calm_p99_ms: float
    whole_p99_ms: float
    whole_ratio: float
    peak_connections: int
    cpu_s_per_1000: float


def summarise(outcomes: Iterable[Outcome]) -> list[Summary]:
    """A row for each number of clients and contender, in the order in which they first ran."""
    groups: dict[tuple[int, str], list[Outcome]] = {}
    order = {name.value: place for place, name in enumerate(Name)}
    for outcome in sorted(outcomes, key=lambda o: (o.clients, order[o.contender], o.round)):
        groups.setdefault((outcome.clients, outcome.contender), []).append(outcome)
    return [_summary(group) for group in groups.values()]


def _summary(group: Sequence[Outcome]) -> Summary:
    failures = Counter[str]()
    for outcome in group:
        failures.update(outcome.failures)

    def middle(value: Callable[[Outcome], float]) -> float:
        return statistics.median(map(value, group))

    return Summary(
        contender=group[0].contender,
        clients=group[0].clients,
        rounds=len(group),
        queries=sum(o.queries for o in group),
        failures=dict(failures),
        steady_p50_ms=middle(lambda o: o.steady_p50_ms),
        steady_p99_ms=middle(lambda o: o.steady_p99_ms),
        around_p99_ms=middle(lambda o: o.around_p99_ms),
        ratio=middle(lambda o: o.ratio),
        ratio_low=min(o.ratio for o in group),
        ratio_high=max(o.ratio for o in group),
        calm_p99_ms=middle(lambda o: o.calm_p99_ms),
        whole_p99_ms=middle(lambda o: o.whole_p99_ms),
        whole_ratio=middle(lambda o: o.whole_ratio),
        peak_connections=max(o.peak_connections for o in group),
        cpu_s_per_1000=middle(lambda o: o.cpu_s_per_1000),
    )


def run(
    stage: Backstage,
    *,
    contenders: Sequence[Name],
    clients: Sequence[int],
    rounds: int,
    seconds: float,
    every: float,
    tell: Callable[[Outcome], object],
) -> list[Outcome]:
    """All jobs, interleaved: each round runs every contender, starting with another one."""
    outcomes = list[Outcome]()
    for turn in range(rounds):
        first = turn % len(contenders)
        for count in clients:
            for name in (*contenders[first:], *contenders[:first]):
                outcome: Outcome = stage.measured(measure, Job(name, count, turn + 1, seconds, every))
                outcomes.append(outcome)
                tell(outcome)
    return outcomes
