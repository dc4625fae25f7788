"""Credentials, from the environment or a .env file. Nothing is read on import."""

import base64
import logging
import os
import re
import stat
from pathlib import Path
from urllib.parse import unquote, urlsplit

from utils.errors import UserError

logger = logging.getLogger(__name__)

_PLACEHOLDER_STARTS = ("your_", "your-", "sk-...", "hf_...", "xxx", "<", "changeme", "replace")
_KEY_NAMES = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "JUDGE_API_KEY", "GEN_API_KEY", "HF_TOKEN")
_SHORTEST_KEY = 8  # what is shorter guards nothing, and would be found in any text
_USER_IN_URL = re.compile(r"(?<=://)[^/\s]*@")
_KEY_IN_QUERY = re.compile(r"(?<=[?&])([\w-]*(?:key|token|secret|password)[\w-]*=)[^&\s'\"]+", re.IGNORECASE)


def load_credentials(env_file: Path | None = None) -> None:
    """Read ``.env`` (the given file, or the nearest one upwards from the current folder) into the environment.

    Variables that are set already win. Placeholders of .env.example are taken out, since the Hub's library reads the
    environment by itself and would send one as a token. Says so in the log where others than the owner can read the
    file that a key comes from.
    """
    from dotenv import find_dotenv

    path = env_file or Path(find_dotenv(usecwd=True) or ".env")
    if path.is_file():
        _load(path)
    for name in _KEY_NAMES:
        value = os.environ.get(name, "").strip()
        if value and not _is_credential(value):
            del os.environ[name]


def _load(path: Path) -> None:
    from dotenv import dotenv_values, load_dotenv

    try:
        new = [n for n, value in dotenv_values(path).items() if _is_credential(value) and n not in os.environ]
        load_dotenv(path)
    except (ValueError, OSError) as error:
        raise UserError(
            f"cannot read {path} as lines of NAME=value in UTF-8 ({type(error).__name__}): mend it"
        ) from error
    if new and os.name == "posix" and path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        logger.warning("%s can be read by other users; it holds keys: chmod 600 %s", path, path)


def _is_credential(value: str | None) -> bool:
    """Whether a variable's value may be a key: neither empty nor still the placeholder of .env.example."""
    return bool(value and value.strip()) and not str(value).strip().lower().startswith(_PLACEHOLDER_STARTS)


def get_credential(name: str) -> str | None:
    """The environment variable ``name``, or None where it is unset, empty or still the placeholder of .env.example.

    >>> import os
    >>> os.environ["EXAMPLE_KEY"] = "your_openai_key"
    >>> get_credential("EXAMPLE_KEY") is None
    True
    """
    value = os.environ.get(name, "").strip()
    if not _is_credential(value):
        return None
    if not (value.isascii() and value.isprintable()):
        raise UserError(f"{name} holds characters that no key has, as a line break or a letter that is not ASCII")
    return value


def without_keys(text: str, *keys: str) -> str:
    """``text`` without the credentials of this project, without ``keys``, and without those in addresses.

    >>> without_keys("POST https://me:secret@host/v1?api_key=abc refused")
    'POST https://host/v1?api_key=[key] refused'
    """
    known = [*keys, *(os.environ.get(name, "").strip() for name in _KEY_NAMES)]
    for key in sorted(known, key=len, reverse=True):
        if len(key) >= _SHORTEST_KEY:
            text = text.replace(key, "[key]")
    return _KEY_IN_QUERY.sub(r"\1[key]", _USER_IN_URL.sub("", text))


def keys_in(base_url: str) -> tuple[str, ...]:
    """What stands before an @ in a server's address, in every form in which the server may repeat it.

    >>> keys_in("http://me:p%40ss@host/v1")
    ('me', 'p%40ss', 'p@ss', 'bWU6cEBzcw==')
    """
    parts = urlsplit(base_url)
    raw = [part for part in (parts.username, parts.password) if part]
    if not raw:
        return ()
    sent = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    return (
        *dict.fromkeys([form for part in raw for form in (part, unquote(part))]),
        base64.b64encode(sent.encode()).decode(),
    )


def server_host(flag: str, base_url: str) -> str:
    """Host and port of a server's address, to show and to record; ``flag`` is what the user set it by.

    Raises:
        UserError: it is no address, or has a query, which would stand in the midst of what is asked for.
    """
    if "?" in base_url or "#" in base_url:
        raise UserError(
            f"{flag} must end with its path, as http://localhost:8000/v1 does: take away what follows ? or #"
        )
    try:
        parts = urlsplit(base_url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:  # a port that is no number, half of an IPv6 address
        parts, port = urlsplit(""), ""
    if parts.scheme not in ("http", "https") or not parts.hostname or not base_url.isprintable() or " " in base_url:
        # What stands before an @ may be a key.
        raise UserError(f"{flag} must look like http://localhost:8000/v1, got {base_url.rpartition('@')[2]!r:.60}")
    return parts.hostname + port
