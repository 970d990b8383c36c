"""Hooks of schemathesis for this API."""

import itertools
import json

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def ndjson(_context, value):
    """Puts each item on a line of its own."""
    lines = value if isinstance(value, list) else [value]
    return "\n".join(json.dumps(line) for line in lines).encode()


_keys = itertools.count()


@schemathesis.hook
def before_call(_context, case, _kwargs):
    """Makes parameters agree with each other, which the document describes one by one.

    Each request has its own idempotency key, because a different request with a known key is refused.
    """
    for name in [name for name in case.headers or {} if name.lower() == "idempotency-key"]:
        case.headers[name] = f"{next(_keys)}-{case.headers[name]}"[:256]
    # A page continues in its own order, in one direction.
    query = case.query or {}
    if case.path == "/events" and ("after" in query or "before" in query):
        if "after" in query:
            query.pop("before", None)
        query["order"] = "asc" if "after" in query else "desc"
    # A merge needs a string, and excludes policies that omit events.
    if case.path == "/sse":
        if query.get("on_lag") in ("conflate", "sample") or "max_per_second" in query:
            query.pop("compact", None)
        if query.get("compact") == "concat" or query.get("on_lag") == "concat":
            query.setdefault("concat", "/payload/delta")
        else:
            query.pop("concat", None)
