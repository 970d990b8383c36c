"""Event ids as places: `epoch-sequence`, with `.shard` behind it where there are several."""

from __future__ import annotations

import re

_ID = re.compile(r"([^-]+)-(\d+)(\.\d+)?")


def place(id: str | None) -> tuple[str, int] | None:
    """Shard of which life, and the number within it."""
    found = _ID.fullmatch(id or "")
    if found is None:
        return None
    number = int(found[2])
    # Before the first event stands the number that no event has.
    return found[1] + (found[3] or ""), -1 if number >= 1 << 63 else number


def distance(a: str | None, b: str | None) -> int | None:
    """How far `a` is behind `b`, negative where before; None where nobody can tell."""
    one, other = place(a), place(b)
    return one[1] - other[1] if one and other and one[0] == other[0] else None


def is_behind(a: str | None, b: str | None) -> bool:
    """Whether `a` is not known to be `b` or before it."""
    far = distance(a, b)
    return far is None or far > 0
