"""Whether two failures have the same reason, however their texts differ in figures."""

from __future__ import annotations

import re

_PASSING = re.compile(
    r"(?<=did not answer)( (?!within|in time)\S+)?( within (the )?\d\S* s( that were left for it)?| in time)"
    r"|\bv-[\w-]+|(?<!\bstatus )(?<![\d.:])\d[\d.:]*"
)
"""What differs from one attempt to the next: which call was not answered and how long it had, the user name of a lease, seconds, times.
Not the status of an answer."""


def gist(error: str) -> str:
    """What is left of a message without that."""
    return _PASSING.sub("…", error)
