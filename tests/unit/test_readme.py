"""The README says what is there."""

from __future__ import annotations

import re
from pathlib import Path

import vault_pg
from vault_pg.settings.table import rows

README = (Path(__file__).parents[2] / "README.md").read_text()


def test_the_table_of_settings_is_the_settings() -> None:
    section = README.partition("## Settings")[2].partition("\n## ")[0]
    shown = [
        tuple(cell.strip().strip("`") for cell in line.strip("|").split(" | ")) for line in section.splitlines() if "|" in line
    ]
    cells = [row for row in shown if row[0] not in {"setting", "---|---|---|---"}]
    assert cells == [(row.name, row.variable or "", str(row.default or ""), row.description) for row in rows()]


def test_every_name_it_imports_is_public() -> None:
    names = {name.strip() for line in re.findall(r"from vault_pg import (.+)", README) for name in line.split(",")}
    assert names
    assert names <= set(vault_pg.__all__)
    assert all(hasattr(vault_pg, name) for name in vault_pg.__all__)
