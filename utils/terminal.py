"""Text that cannot command the terminal that shows it."""

from __future__ import annotations

import re

# What commands a terminal or turns the direction of its text; words of any language are not among it.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def without_controls(text: str) -> str:
    """A text of a model, a file or a server, in which what would command the terminal is replaced.

    >>> without_controls("red " + chr(27) + "[31m alert")
    'red �[31m alert'
    """
    return _CONTROL.sub("\ufffd", text)
