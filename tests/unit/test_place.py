"""Where an error of the user's was raised: the user's own line, whatever was called from there or called it."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pydantic
import pytest

from vault_pg import place


def module(where: Path, text: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(where.stem, where)
    where.write_text(text)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def raised(call: Callable[[], object]) -> Exception:
    with pytest.raises(Exception) as caught:
        call()
    error = caught.value
    assert error.__traceback__ is not None
    return error.with_traceback(error.__traceback__.tb_next)  # without this frame


@pytest.mark.parametrize(
    "statement",
    ["json.loads('hvs.secret')", "pydantic.TypeAdapter(int).validate_python('hvs.secret')", "raise ValueError('hvs.secret')"],
)
def test_the_users_line_is_told_and_not_what_it_called(tmp_path: Path, statement: str) -> None:
    login = module(tmp_path / "login.py", f"import json, pydantic\n\ndef call():\n    {statement}\n").call
    error = raised(login)
    assert place.told(error) == f"{type(error).__name__} at {tmp_path}/login.py:4"


def test_what_the_user_has_installed_is_told_where_no_line_is_the_users_own() -> None:
    error = raised(lambda: pydantic.TypeAdapter(int).validate_python("hvs.secret"))
    assert error.__traceback__ is not None
    assert "pydantic/type_adapter.py:" in place.place(error.with_traceback(error.__traceback__.tb_next))


def test_an_error_of_the_standard_library_alone_has_no_place() -> None:
    error = raised(lambda: json.loads("x"))
    assert error.__traceback__ is not None
    assert place.told(error.with_traceback(error.__traceback__.tb_next)) == "JSONDecodeError"
    assert place.told(ValueError("never raised")) == "ValueError"
