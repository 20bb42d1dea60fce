"""What stands for our glyphs where the terminal has none of them."""

from __future__ import annotations

import codecs
import io
from typing import TextIO

PLAIN = str.maketrans(
    {"█": "#", "░": ".", "●": "*", "▲": "^", "✓": "+", "✗": "x", "…": "."} | dict(zip("▁▂▃▄▅▆▇", "_..--==", strict=True))
)
UNKNOWN = "?"


def adapt(*streams: TextIO) -> None:
    """Make these streams write a plain character for whatever their encoding does not have, instead of raising UnicodeError."""
    codecs.register_error("vault_pg", _plain)
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="vault_pg")


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(PLAIN)
    return "".join(character if character.isascii() else UNKNOWN for character in text), error.end
