"""docs/testing.md tells of every fixture and every fault that there is, and of no other."""

from __future__ import annotations

import re
from pathlib import Path

from vault_pg import testing
from vault_pg.dev import Faults

DOC = (Path(__file__).parents[2] / "docs" / "testing.md").read_text()


def first_cells(heading: str) -> set[str]:
    """The names in the first column of the table below a heading."""
    section = DOC.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return {name for cell in cells for name in re.findall(r"`(\w+)", cell)}


def test_every_fixture_is_told_of() -> None:
    assert first_cells("Fixtures") == {name for name in testing.__all__ if name.startswith("vault_pg_")}


def test_every_fault_is_told_of() -> None:
    assert first_cells("Faults") == {name for name in vars(Faults) if not name.startswith("_")} - {"judge"}


def test_what_it_says_of_postgres_and_mounts_is_there() -> None:
    for name in ("down", "restart", "terminate_backends", "admin"):
        assert hasattr(testing.EmbeddedPostgres, name)
    for name in ("token", "approle", "leases", "write_policy", "client"):
        assert hasattr(testing.Mount, name)
