"""What a server said of a failure, in words: error objects, lists of complaints and pages, whatever their form."""

from __future__ import annotations

import re

_LONGEST = 200
_DEEPEST = 6
# The words of an error, under the first of these names that holds any.
_NAMES = ("message", "msg", "detail", "error", "errors", "error_description", "description", "title", "reason")
# What stood behind a gateway's words, where it says.
_BEHIND = (("metadata", "raw"), ("innererror", "message"), ("inner_error", "message"), ("cause",))


def words_of(value: object) -> str:
    """The words in the JSON value or text of a failed answer; "" where there are none.

    >>> words_of({"error": {"message": "busy", "metadata": {"raw": "Too Many Requests"}}})
    'busy (Too Many Requests)'
    >>> words_of({"detail": [{"loc": ["body", "seed"], "msg": "extra fields not permitted"}]})
    'body.seed: extra fields not permitted'
    >>> words_of("<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>")
    '502 Bad Gateway'
    """
    return _words(value, 0)


def in_short(text: str) -> str:
    """``text`` on one line of at most 200 characters."""
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _words(value: object, depth: int) -> str:
    if depth > _DEEPEST:
        return ""
    if isinstance(value, str):
        return _without_markup(value)
    if isinstance(value, list):
        return "; ".join(filter(None, (_words(item, depth + 1) for item in value[:3])))
    if not isinstance(value, dict):
        return ""
    said = next(filter(None, (_words(value.get(name), depth + 1) for name in _NAMES)), "")
    where = value.get("loc")
    if said and isinstance(where, list):
        said = f"{'.'.join(map(str, where))}: {said}"
    behind = next(filter(None, (_words(_at(value, *path), depth + 1) for path in _BEHIND)), "")
    if behind and behind not in said:
        said = f"{said} ({behind})" if said else behind
    return said


def _at(value: object, *path: str) -> object:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _without_markup(text: str) -> str:
    if not re.match(r"\s*<(?:!doctype|html|head|body|\?xml)", text, re.IGNORECASE):
        return text.strip()
    start = text[:20_000]
    title = re.search(r"<title[^<>]*>([^<]*)", start, re.IGNORECASE)
    bare = re.sub(
        r"<(?:style|script)\b.*?(?:</(?:style|script)>|\Z)|<[^<>]*>", " ", start, flags=re.DOTALL | re.IGNORECASE
    )
    return " ".join((title[1] if title and title[1].strip() else bare).split())
