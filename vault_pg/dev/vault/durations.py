"""Durations and times as Vault reads and writes them, and how long a grant may be."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from vault_pg.dev.vault.messages import Refused

SYSTEM_TTL = 768 * 3600
"""Vault's own default and maximum: 32 days."""

UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
DURATION = re.compile(r"(?:\d+(?:\.\d+)?[dhms])+")
PART = re.compile(r"(\d+(?:\.\d+)?)([dhms])")


def seconds(value: object, name: str = "ttl") -> int:
    """Whole seconds from 20, "20", "20s" or "1h30m"; 0 for nothing. Refused (400) otherwise."""
    if value is None or value == "":
        return 0
    text = str(value).strip()
    if text.isdigit():
        return int(text)
    if not DURATION.fullmatch(text):
        raise Refused(400, f"error converting input {text!r} for field {name!r}: time: invalid duration {text!r}")
    return int(sum(float(number) * UNITS[unit] for number, unit in PART.findall(text)))


def written(duration: float) -> str:
    """As Vault's warnings have it: 3600 is "1h", 25 is "25s"."""
    left, parts = round(duration), []
    for unit in ("h", "m", "s"):
        count, left = divmod(left, UNITS[unit])
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def rfc3339(instant: float) -> str:
    return datetime.fromtimestamp(instant, UTC).isoformat().replace("+00:00", "Z")


def grant(*, now: float, start: float, wanted: float, default: float, most: float) -> tuple[int, list[str]]:
    """Seconds to grant from `now` to something that began at `start` and may live `most` seconds, with the warnings of a cut.

    The time left is *set* to what is wanted (or the default), not added to. What is left of `most` is rounded to whole seconds.
    """
    ttl = int(wanted or default or SYSTEM_TTL)
    left = round(start + min(most or SYSTEM_TTL, SYSTEM_TTL) - now)
    if left <= 0:
        raise Refused(400, "past the max TTL, cannot renew")
    if ttl <= left:
        return ttl, []
    cut = f'TTL of "{written(ttl)}" exceeded the effective max_ttl of "{written(left)}"; TTL value is capped accordingly'
    return left, [cut]
