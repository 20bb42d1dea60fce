"""What all settings have in common: frozen, no unknown keys, and SettingsError with every mistake at once."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from vault_pg.errors import SettingsError
from vault_pg.settings.mistakes import Where, sentences
from vault_pg.settings.tree import Path

_within: ContextVar[bool] = ContextVar("vault_pg_settings_within", default=False)
"""True while an outer model validates: inner models then leave their mistakes to it, which knows where the values came from."""


class Given(NamedTuple):
    """What a model is to be made of, and the mistakes seen before any field was looked at."""

    values: dict[str, Any]
    where: Where
    mistakes: Sequence[str] = ()
    complete: bool = True
    """False where a source could not be read: what is missing may well stand in there, so nobody is told to give it."""


class Model(BaseModel):
    """Base of all settings. Raises SettingsError, with a sentence for each mistake and no value that may be a secret."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        hide_input_in_errors=True,
        str_strip_whitespace=True,
        allow_inf_nan=False,
    )

    def __init__(self, **data: Any) -> None:
        if _within.get():
            super().__init__(**data)
            return
        given = self._given(data)
        mistakes = list(given.mistakes)
        token = _within.set(True)
        try:
            super().__init__(**given.values)
        except ValidationError as error:
            mistakes += sentences(error, type(self), given.where, missing=given.complete)
        finally:
            _within.reset(token)
        # Raised out here and with the values gone: neither a context nor a traceback that shows locals has them.
        del data, given
        if mistakes:
            raise SettingsError(*dict.fromkeys(mistakes))

    @classmethod
    def _given(cls, data: dict[str, Any]) -> Given:
        def where(path: Path) -> str:
            dotted = ".".join(path)
            return f"argument {dotted} of {cls.__name__}" if path[0] in data else f"{dotted} (default)"

        return Given(data, where)
