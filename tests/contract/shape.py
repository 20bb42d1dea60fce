"""How an answer is held against a recorded one: same keys, same types, same texts, whatever is random apart."""

from __future__ import annotations

import re
from typing import Any

UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
PLACEHOLDERS = {
    "<uuid>": UUID,
    "<role_id>": UUID,
    "<secret_id>": UUID,
    "<token>": r"\S{20,}",
    "<wrapping_token>": r"\S{20,}",
    "<accessor>": r"\w{20,}",
    "<password>": r"[\w-]{20}",
    "<lease>": r"\w{24}",
    "<random20>": r"\w{20}",
    "<epoch>": r"\d{10}",
    "<time>": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)",
}
FREE = ("version", "cluster_name", "storage_type", "build_date")
"""Texts that say which server it is."""

OMITTED = (
    "active_time",
    "is_self",
    "leader_address",
    "leader_cluster_address",
    "performance_standby",
    "performance_standby_last_remote_wal",
)
"""What OpenBao's health and leader no longer tell."""

EXACT_NUMBERS = ("lease_duration", "creation_ttl", "explicit_max_ttl", "default_ttl", "max_ttl", "rotation_period", "num_uses")
"""Numbers that follow from the request alone; all others only have to be numbers."""

CHANGING = re.compile(r'127\.0\.0\.1:\d+|"\d+[dhms]"')
"""In texts: where PostgreSQL listens, and durations that depend on the moment."""


def pattern(text: str) -> re.Pattern[str]:
    """What a recorded text stands for."""
    expression = re.escape(CHANGING.sub("@", text))
    for placeholder, stands_for in PLACEHOLDERS.items():
        expression = expression.replace(re.escape(placeholder), stands_for)
    return re.compile(expression)


def differences(
    recorded: Any, actual: Any, where: str = "body", *, newer: bool = False, loose: tuple[str, ...] = ()
) -> list[str]:
    """Where `actual` is not what was recorded. `newer` servers may say more, warn, and leave out OMITTED.

    Numbers named in `loose` may differ.
    """
    if isinstance(recorded, dict):
        if not isinstance(actual, dict):
            return [f"{where}: {type(actual).__name__} instead of an object"]
        missing, added = recorded.keys() - actual.keys(), actual.keys() - recorded.keys()
        if newer:
            missing, added = missing - {*OMITTED}, set()
        found = [f"{where}: missing {sorted(missing)}, added {sorted(added)}"] if missing or added else []
        for key in recorded.keys() & actual.keys():
            if newer and key == "warnings" and recorded[key] is None:
                continue
            found += differences(recorded[key], actual[key], f"{where}.{key}", newer=newer, loose=loose)
        return found
    if isinstance(recorded, list):
        return _of_lists(recorded, actual, where)
    if type(recorded) is not type(actual):
        return [f"{where}: {type(actual).__name__} instead of {type(recorded).__name__}"]
    name = where.rpartition(".")[2]
    if isinstance(recorded, str):
        same = name in FREE or pattern(recorded).fullmatch(CHANGING.sub("@", actual))
        return [] if same else [f"{where}: {actual!r} instead of {recorded!r}"]
    exact = isinstance(recorded, bool) or (name in EXACT_NUMBERS and name not in loose)
    return [f"{where}: {actual!r} instead of {recorded!r}"] if exact and recorded != actual else []


def _of_lists(recorded: list[Any], actual: Any, where: str) -> list[str]:
    if not isinstance(actual, list):
        return [f"{where}: {type(actual).__name__} instead of a list"]
    if where == "body.data.keys":
        # Ids, and as many as there are.
        wrong = [key for key in actual if not re.fullmatch(PLACEHOLDERS["<lease>"], str(key))]
        return [f"{where}: {len(wrong)} of {len(actual)} are no lease ids"] if wrong or not actual else []
    if len(recorded) != len(actual):
        return [f"{where}: {actual} instead of {recorded}"]
    return [text for n, pair in enumerate(zip(recorded, actual, strict=True)) for text in differences(*pair, f"{where}.{n}")]
