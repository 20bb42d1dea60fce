"""The demo while it runs: a live picture in a terminal, plain lines elsewhere."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from types import TracebackType
from typing import NamedTuple, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from vault_pg.cli.bar import bar, share, spark
from vault_pg.cli.event_words import describe
from vault_pg.cli.load import Meter, percentile
from vault_pg.cli.record import Record
from vault_pg.cli.status_view import due, lease_bar, lease_life, next_step, pool_use
from vault_pg.cli.verdict import Plan, milliseconds
from vault_pg.cli.wording import count, duration
from vault_pg.events import Event
from vault_pg.manager.status import DatabaseStatus, Status

WINDOW = 2.0
"""Seconds that rate and latency are taken over where one figure stands for them."""

COLOURS = {"debug": "bright_black", "info": "", "warning": "yellow", "error": "red", "critical": "bold red"}
LABEL = 10
BAR_WIDTH = 24
OTHER_LINES = 16
"""What stands above the events."""

FEWEST_EVENTS = 3
LINE_EVERY = 1.0


class View(ABC):
    """Shows the demo while it is entered; `show` is called a few times a second. Instants are on the loop's clock.

    `start` is when the load started; until then, when the manager did.
    """

    def __init__(self, console: Console, plan: Plan, meter: Meter, record: Record, start: float) -> None:
        self.console, self.plan, self.meter, self.record, self.start = console, plan, meter, record, start

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return

    @abstractmethod
    def show(self, status: Status, now: float) -> None: ...

    def rate(self, now: float) -> float:
        """Checkouts a second, of late."""
        window = min(WINDOW, now - self.start)
        return len(self.meter.since(now - window)) / window if window > 0 else 0.0

    def latency(self, now: float) -> str:
        latencies = self.meter.since(now - WINDOW)
        return f"p50 {milliseconds(percentile(latencies, 50))}, p99 {milliseconds(percentile(latencies, 99))}"


class PlainView(View):
    """A line a second, and a line for each event."""

    def __init__(self, console: Console, plan: Plan, meter: Meter, record: Record, start: float) -> None:
        super().__init__(console, plan, meter, record, start)
        self._seen = 0
        self._due = start

    def show(self, status: Status, now: float) -> None:
        self._print_events()
        if now >= self._due:
            self._due = now + LINE_EVERY
            for database in status.databases:
                self._print(f"{_clock(now - self.start)}  {self._facts(database, now)}")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._print_events()
        self.console.file.flush()

    def _print_events(self) -> None:
        fresh = self.record.told[self._seen :]
        self._seen += len(fresh)
        for at, event in fresh:
            self._print(f"{_clock(at - self.start)}  {event.name}: {describe(event)}")

    def _facts(self, database: DatabaseStatus, now: float) -> str:
        lease, step, pool = database.lease, database.next, database.pool
        facts = [f"{self.rate(now):.0f} checkouts/s, {self.latency(now)}, {self.meter.failed} failed"]
        if pool is not None:
            facts.append(f"generation {pool.generation}: {pool_use(pool).plain}")
        if lease is not None:
            facts.append(f"lease {lease_life(lease)}")
        if step is not None:
            facts.append(due(step))
        return "; ".join(facts)

    def _print(self, line: str) -> None:
        # Whole lines, however long: nobody wants a log that is folded at column 80.
        self.console.print(Text(line), soft_wrap=True)


class Moment(NamedTuple):
    """One look of the live view."""

    rate: float
    slowest: float
    swapped: bool


class LiveView(View):
    """One screenful, drawn anew at each look."""

    def __init__(self, console: Console, plan: Plan, meter: Meter, record: Record, start: float) -> None:
        super().__init__(console, plan, meter, record, start)
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._moments: deque[Moment] = deque(maxlen=console.width)
        self._last = start
        self._swaps = 0

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._live.stop()

    def show(self, status: Status, now: float) -> None:
        self._note(now)
        parts: list[RenderableType] = [self._title(now), Text()]
        parts += [self._facts(status, database, now) for database in status.databases]
        parts += [Text(), self._history(), Text(), *self._events()]
        self._live.update(Group(*parts), refresh=True)

    def _note(self, now: float) -> None:
        latencies = self.meter.since(self._last)
        if now > self._last:
            slowest = percentile(latencies, 99) or 0.0
            swapped = len(self.record.swaps) > self._swaps
            self._moments.append(Moment(len(latencies) / (now - self._last), slowest, swapped))
        self._last, self._swaps = now, len(self.record.swaps)

    def _title(self, now: float) -> Text:
        gone, plan = now - self.start, self.plan
        return Text.assemble(
            ("vault-pg demo  ", "bold"),
            bar(share(gone, plan.seconds), BAR_WIDTH, style="cyan"),
            f"  {gone:.0f} of {plan.seconds:.0f} s",
            (
                f"\n{plan.clients} clients on a pool of {plan.max_size}, leases of {plan.ttl} s, max TTL {plan.max_ttl} s",
                "bright_black",
            ),
        )

    def _facts(self, status: Status, database: DatabaseStatus, now: float) -> Table:
        shown = Table.grid(padding=(0, 2, 0, 0))
        shown.add_column(style="bright_black", min_width=LABEL)
        shown.add_column()
        if database.lease is not None:
            shown.add_row(
                "lease", Text.assemble(lease_bar(database.lease, BAR_WIDTH), (f"  {database.lease.username}", "bright_black"))
            )
        shown.add_row("next", next_step(database.next))
        shown.add_row("pool", self._pool(database))
        shown.add_row("token", self._token(status))
        failed = (f"{self.meter.failed} failed", "bold red" if self.meter.failed else "green")
        shown.add_row("load", Text.assemble(f"{self.rate(now):.0f} checkouts/s, {self.latency(now)}, ", failed))
        rotations, renewals = count(len(self.record.swaps), "rotation"), count(self.record.renewals, "renewal")
        shown.add_row("so far", f"{count(self.meter.queries, 'query', 'queries')}, {rotations}, {renewals}")
        return shown

    @staticmethod
    def _pool(database: DatabaseStatus) -> Text:
        if database.pool is None:
            return Text("-")
        old = [f"; generation {each.generation} drains, {each.in_use} in use" for each in database.draining]
        return Text.assemble(f"generation {database.pool.generation}: ", pool_use(database.pool), ("".join(old), "cyan"))

    def _token(self, status: Status) -> str:
        remaining = status.vault.token_remaining_seconds if status.vault is not None else None
        left = "never ends" if remaining is None else f"{duration(remaining)} left"
        return f"{left}; {count(self.record.logins, 'login')}, {count(self.record.token_renewals, 'renewal')}"

    def _history(self) -> Table:
        """Rate and p99 of each look, and where a rotation fell."""
        shown = Table.grid(padding=(0, 2, 0, 0))
        shown.add_column(style="bright_black", min_width=LABEL)
        shown.add_column(no_wrap=True)
        moments = list(self._moments)[-(self.console.width - LABEL - 4) :]
        shown.add_row("rate", Text(spark([moment.rate for moment in moments]), "green"))
        shown.add_row("p99", Text(spark([moment.slowest for moment in moments]), "yellow"))
        shown.add_row("rotations", Text("".join("▲" if moment.swapped else " " for moment in moments), "cyan"))
        return shown

    def _events(self) -> list[Text]:
        return [
            self._event(at, event) for at, event in self.record.told[-max(FEWEST_EVENTS, self.console.height - OTHER_LINES) :]
        ]

    def _event(self, at: float, event: Event) -> Text:
        line = Text.assemble(
            (_clock(at - self.start), "bright_black"), f"  {event.name:<18} ", (describe(event), COLOURS[event.level])
        )
        line.truncate(self.console.width - 1, overflow="ellipsis")
        return line


def _clock(seconds: float) -> str:
    return f"{round(seconds, 1) + 0.0:6.1f} s"  # without it a moment before the start is -0.0
