"""Evaluates the text form of filters by the server's rules. The server checks the text."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ._filter import pattern
from ._types import Event

T = TypeVar("T")
Test = Callable[[Event], bool]

_WHITE = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_BARE = rf"[^{_WHITE}\x00-\x1f\x7f-\x9f,\"'=!<>&()%s]+"
_SPACE = re.compile(f"[{_WHITE}]*")
_VALUE, _KIND, _KEY = (re.compile(_BARE % but) for but in ("", ":", "."))
_NAME = re.compile("[A-Za-z0-9_]+")
_QUOTED = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'", re.DOTALL)
_ESCAPE = re.compile(r"\\u([0-9A-Fa-f]{4})|\\(.)", re.DOTALL)
_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_SIGNS = re.compile("[=!<>]+")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_INDEX = re.compile("0|[1-9][0-9]{0,8}")
_LONE = re.compile("[\ud800-\udfff]")
_ATTRIBUTES = {
    "type": "event_type", "stream": "stream_id", "execution": "execution_id", "correlation": "correlation_id",
}  # fmt: skip
_FIELDS = {"event_type", "source", "stream_id", "execution_id", "correlation_id", "channel", "entity", "entity_kind", "entity_id"}
_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq, "==": operator.eq, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_MISSING = object()


def evaluator(text: str) -> Test:
    """Returns whether a filter's text wants an event. Raises ValueError if it can't tell: the text has something of a
    later version."""
    return _Parser(text).filter()


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def _take(self, form: re.Pattern[str]) -> str:
        found = form.match(self._text, self._at)
        self._at = found.end() if found else self._at
        return found[0] if found else ""

    def _need(self, form: re.Pattern[str]) -> str:
        found = self._take(form)
        if not found:
            raise ValueError(f"at {self._at} of {self._text!r}")
        return found

    def _next(self, token: str) -> bool:
        found = self._text.startswith(token, self._at)
        self._at += len(token) if found else 0
        return found

    def _unquoted(self) -> str | None:
        found = self._take(_QUOTED)

        def plain(escape: re.Match[str]) -> str:
            return chr(int(escape[1], 16)) if escape[1] else _ESCAPES.get(escape[2], escape[2])

        if not found:
            return None
        # A pair of surrogates is one character.
        return _ESCAPE.sub(plain, found[1:-1]).encode("utf-16", "surrogatepass").decode("utf-16")

    def _word(self, form: re.Pattern[str]) -> str:
        found = self._unquoted()
        return self._need(form) if found is None else found

    def _list(self, read: Callable[[], T]) -> list[T]:
        values = []
        while True:
            self._take(_SPACE)
            values.append(read())
            self._take(_SPACE)
            if not self._next(","):
                return values

    def filter(self) -> Test:
        tests: list[Test] = []
        # Values of a group by attribute; of a negated one apart.
        sets: dict[tuple[str, bool], list[Test]] = {}
        while True:
            self._take(_SPACE)
            if self._at == len(self._text):
                return lambda event: all(test(event) for test in tests)
            if self._next("&"):
                sets = {}
                continue
            name = self._need(_NAME)
            if name == "payload":
                tests.append(self._condition())
            elif name == "nothing":
                tests.append(lambda _: False)
            else:
                self._set(_ATTRIBUTES.get(name, name), sets, tests)

    def _set(self, field: str, sets: dict[tuple[str, bool], list[Test]], tests: list[Test]) -> None:
        self._take(_SPACE)
        sign = self._need(_SIGNS)
        if field not in _FIELDS or sign not in ("=", "==", "!=", "!=="):
            raise ValueError(f"{field} {sign}")
        negated = sign[0] == "!"
        form = _exact if sign.endswith("==") else pattern
        members = sets.get((field, negated))
        if members is None:
            members = sets[field, negated] = []
            tests.append(_any(members, negated))
        members += self._list(lambda: self._entity(form) if field == "entity" else _attribute(field, form(self._word(_VALUE))))

    def _entity(self, form: Callable[[str], Callable[[str], bool]]) -> Test:
        first = self._word(_KIND)
        if self._next(":"):
            second = self._word(_VALUE)
        else:
            first, colon, second = first.partition(":")
            if not colon:
                raise ValueError(f"{first!r} is no entity")
        kinds, ids = form(first), form(second)

        def holds(event: Event) -> bool:
            kind, id = event.entity or ("", "")
            return kinds(kind) and ids(id)

        return holds

    def _condition(self) -> Test:
        """A condition on a field, after `payload`."""
        path = []
        while self._next("."):
            path.append(self._word(_KEY))
        self._take(_SPACE)
        if self._next("exists"):
            return lambda event: _find(event.payload, path) is not _MISSING
        if self._next("!exists"):
            return lambda event: _find(event.payload, path) is _MISSING
        sign = self._need(_SIGNS)
        literals = self._list(self._literal)
        negated = sign == "!="
        holds = _ORDERS.get("=" if negated else sign)
        if holds is None:
            raise ValueError(sign)

        def test(event: Event) -> bool:
            found = _find(event.payload, path)
            return any(_compare(found, literal, holds) for literal in literals) != negated

        return test

    def _literal(self) -> Any:
        quoted = self._unquoted()
        if quoted is not None:
            return quoted
        text = self._need(_VALUE)
        if text in ("null", "true", "false"):
            return {"null": None, "true": True, "false": False}[text]
        number = _NUMBER.fullmatch(text)
        if not number:
            return text
        return float(text) if number[1] or number[2] or len(text.lstrip("-")) > 38 else int(text)


def _exact(text: str) -> Callable[[str], bool]:
    return lambda value: value == text


def _any(members: Sequence[Test], negated: bool) -> Test:
    return lambda event: any(holds(event) for holds in members) != negated


def _attribute(field: str, holds: Callable[[str], bool]) -> Test:
    if field.startswith("entity_"):
        at = 0 if field == "entity_kind" else 1
        return lambda event: holds(event.entity[at] if event.entity else "")
    return lambda event: holds(getattr(event, field) or "")


def _find(value: Any, path: Sequence[str]) -> Any:
    """Returns the value at a path, or _MISSING."""
    value = {} if value is None else value
    for key in path:
        if isinstance(value, dict):
            value = value.get(key, _MISSING)
        elif isinstance(value, list) and _INDEX.fullmatch(key) and int(key) < len(value):
            value = value[int(key)]
        else:
            return _MISSING
    return value


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("-inf") if value < 0 else float("inf")


def _compare(found: Any, literal: Any, holds: Callable[[Any, Any], bool]) -> bool:
    """Returns whether an order holds between two values of one kind."""
    if isinstance(found, str) and isinstance(literal, str):
        return holds(_LONE.sub("\ufffd", found), literal)
    if literal is None or isinstance(literal, bool):
        return found is literal and holds(0, 0)
    if isinstance(found, bool) or not isinstance(found, int | float) or isinstance(literal, str):
        return False
    # Integers of up to 38 digits compare exactly, all else as floats.
    if isinstance(found, int) and isinstance(literal, int) and abs(found) < 10**38:
        return holds(found, literal)
    return holds(_float(found), _float(literal))
