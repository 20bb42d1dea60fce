"""Results as tables for people and as JSON for programs."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import fleet, leases
from benchmarks.checkout import Row
from benchmarks.rotation import Outcome, Summary

WIDTH = 160


def _failures(failures: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(failures.items())) or "0"


def rotation_table(summaries: Sequence[Summary]) -> Table:
    table = Table(title="Rotation under load: checkout + 3 ms query, medians of rounds", title_justify="left")
    for heading in ("clients", "contender"):
        table.add_column(heading)
    for heading in ("queries", "failed", "p50 ms", "steady p99 ms", "around p99 ms", "ratio", "range"):
        table.add_column(heading, justify="right")
    for heading in ("calm p99 ms", "whole p99 ms", "ratio", "peak", "CPU s/1000"):
        table.add_column(heading, justify="right")
    clients = 0
    for row in summaries:
        if clients not in (0, row.clients):
            table.add_section()
        clients = row.clients
        latencies = (row.steady_p50_ms, row.steady_p99_ms, row.around_p99_ms)
        table.add_row(
            str(row.clients),
            row.contender,
            str(row.queries),
            _failures(row.failures),
            *(f"{value:.1f}" for value in latencies),
            f"{row.ratio:.2f}",
            f"{row.ratio_low:.2f}..{row.ratio_high:.2f}",
            *(f"{value:.1f}" for value in (row.calm_p99_ms, row.whole_p99_ms)),
            f"{row.whole_ratio:.2f}",
            str(row.peak_connections),
            f"{row.cpu_s_per_1000:.2f}",
        )
    return table


def rotation_line(outcome: Outcome) -> str:
    """One round of one contender, while more are under way."""
    o = outcome
    return (
        f"round {o.round}, {o.clients} clients, {o.contender}: {o.queries} queries, failed {_failures(o.failures)}, "
        f"p99 steady / around {o.steady_p99_ms:.1f} / {o.around_p99_ms:.1f} ms = {o.ratio:.2f}, "
        f"calm / whole {o.calm_p99_ms:.1f} / {o.whole_p99_ms:.1f} ms = {o.whole_ratio:.2f}, peak {o.peak_connections}"
    )


def checkout_table(rows: Sequence[Row]) -> Table:
    table = Table(title="CPU of one checkout, medians of rounds", title_justify="left")
    for heading in ("block", "clients"):
        table.add_column(heading)
    for heading in ("raw µs", "HotSwapPool µs", "ratio", "range"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            row.body,
            str(row.clients),
            f"{statistics.median(row.raw_us):.1f}",
            f"{statistics.median(row.ours_us):.1f}",
            f"{row.ratio:.3f}",
            f"{min(row.ratios):.2f}..{max(row.ratios):.2f}",
        )
    return table


def fleet_table(rows: Sequence[fleet.Row]) -> Table:
    table = Table(title="Requests at Vault: busiest 10 s over the mean, worst of rounds", title_justify="left")
    table.add_column("services", justify="right")
    table.add_column("schedule")
    for heading in ("rounds", "requests/service/h", *(f"{low:g} to {high:g} h" for low, high in fleet.WINDOWS)):
        table.add_column(heading, justify="right")
    for row in rows:
        windows = (f"{peak:.1f}" for peak in row.peaks)
        table.add_row(str(row.services), row.schedule, str(row.rounds), f"{row.requests:.2f}", *windows)
    return table


def fleet_json(options: Mapping[str, object], rows: Sequence[fleet.Row]) -> dict[str, object]:
    return {"options": dict(options), "rows": [asdict(row) for row in rows]}


def leases_table(row: leases.Row) -> Table:
    table = Table(title="Leases of one process, on a stub of Vault", title_justify="left")
    for heading in ("leases", "TTL s", "start s", "KB a bare pool", "KB a lease", "beyond its pool"):
        table.add_column(heading, justify="right")
    for heading in ("renewals/s", "other events", "% of a core", "CPU ms a renewal"):
        table.add_column(heading, justify="right")
    sizes = (f"{kb:.1f}" for kb in (row.pool_kb, row.lease_kb, row.beyond_kb))
    table.add_row(
        str(row.leases),
        f"{row.ttl:g}",
        f"{row.start_s:.0f}",
        *sizes,
        f"{row.renewals_per_s:.1f}",
        _failures(row.others),
        f"{100 * row.cpu:.1f}",
        f"{row.ms_per_renewal:.1f}",
    )
    return table


def leases_json(options: Mapping[str, object], row: leases.Row) -> dict[str, object]:
    figures = {"beyond_kb": row.beyond_kb, "renewals_per_s": row.renewals_per_s, "ms_per_renewal": row.ms_per_renewal}
    return {"options": dict(options), "row": asdict(row) | figures}


def rotation_json(options: Mapping[str, object], summaries: Sequence[Summary], outcomes: Sequence[Outcome]) -> dict[str, object]:
    return {"options": dict(options), "summary": [_plain(s) for s in summaries], "rounds": [_plain(o) for o in outcomes]}


def _plain(row: Summary | Outcome) -> dict[str, object]:
    """JSON has no NaN, which is what is measured where no query works."""
    return {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in asdict(row).items()}


def checkout_json(options: Mapping[str, object], rows: Sequence[Row]) -> dict[str, object]:
    return {"options": dict(options), "rows": [asdict(row) | {"ratio": row.ratio} for row in rows]}


def show(table: Table) -> None:
    """On standard output; in full width where that is a file or a pipe."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    console.print(table)


def write(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
