"""docs/failures.md points to tests that there are."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOC = (ROOT / "docs" / "failures.md").read_text()
POINTERS = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", DOC)))


@pytest.mark.parametrize(("file", "name"), POINTERS)
def test_the_test_it_points_to_is_there(file: str, name: str) -> None:
    nodes = ast.walk(ast.parse((ROOT / file).read_text()))
    assert name in {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_failure_has_one() -> None:
    rows = [line for line in DOC.splitlines() if line.startswith("| ") and not line.startswith("| failure |")]
    assert len(rows) > 20
    assert [row for row in rows if not re.search(r"`tests/[\w/]+\.py::\w+`", row)] == []
