"""Positions: event ids, and the positions that a server with several shards names."""

from __future__ import annotations

import re

# `epoch-sequence`, with `.shard` at the end except for the first shard.
_ID = re.compile(r"([^-~]+)-(\d+)(?:\.(\d+))?")


def place(id: str | None) -> tuple[tuple[str, int], int] | None:
    """Returns epoch and shard, and the number within the shard."""
    found = _ID.fullmatch(id or "")
    if found is None:
        return None
    number = int(found[2])
    # The position before the first event has the number that no event has.
    return (found[1], int(found[3] or 0)), -1 if number >= 1 << 63 else number


def _before(id: str | None, shard: tuple[str, int]) -> int | None:
    """Returns the last number of a shard that lies before a position: an event's own, or one of
    `epoch~next.more.more`, in base 36."""
    epoch, tilde, rest = (id or "").partition("~")
    if not tilde:
        other = place(id)
        return other[1] if other and other[0] == shard else None
    parts = rest.split(".")
    if epoch != shard[0] or shard[1] >= len(parts):
        return None
    try:
        # Each number is the difference to the previous one.
        return sum(int(part, 36) for part in parts[: shard[1] + 1]) - 1
    except ValueError:
        return None


def distance(a: str | None, b: str | None) -> int | None:
    """Returns the distance from a position `b` to an event `a`, negative if `a` comes before it; None if it is
    unknown."""
    at = place(a)
    before = _before(b, at[0]) if at else None
    return None if at is None or before is None else at[1] - before


def is_behind(a: str | None, b: str | None) -> bool:
    """Returns whether `a` is not known to be `b` or before it."""
    far = distance(a, b)
    return far is None or far > 0
