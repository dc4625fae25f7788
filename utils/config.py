"""Credentials, from the environment or a .env file. Nothing is read on import."""

import logging
import os
import stat
from pathlib import Path

logger = logging.getLogger(__name__)

_PLACEHOLDER_STARTS = ("your_", "your-", "sk-...", "hf_...", "xxx", "<", "changeme", "replace")


def load_credentials(env_file: Path | None = None) -> None:
    """Read ``.env`` (the given file, or the nearest one upwards from the current folder) into the environment.

    Variables that are set already win. Says so in the log where others than the owner can read the file.
    """
    from dotenv import find_dotenv, load_dotenv

    path = env_file or Path(find_dotenv(usecwd=True) or ".env")
    if not path.is_file():
        return
    if os.name == "posix" and path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        logger.warning("%s can be read by other users; it holds keys: chmod 600 %s", path, path)
    load_dotenv(path)


def get_credential(name: str) -> str | None:
    """The environment variable ``name``, or None where it is unset, empty or still the placeholder of .env.example.

    >>> import os
    >>> os.environ["EXAMPLE_KEY"] = "your_openai_key"
    >>> get_credential("EXAMPLE_KEY") is None
    True
    """
    value = os.environ.get(name, "").strip()
    if not value or value.lower().startswith(_PLACEHOLDER_STARTS):
        return None
    return value
