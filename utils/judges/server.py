"""Which server a judge is asked at, and whose key that gets."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from urllib.parse import urlsplit

from utils.chat.client import ChatServer
from utils.config import get_credential, server_host
from utils.errors import UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Company:
    """A company's own server, the variable that holds its key, and the one by which its SDK is sent elsewhere."""

    url: str
    key_name: str
    url_name: str


OPENAI = Company("https://api.openai.com/v1", "OPENAI_API_KEY", "OPENAI_BASE_URL")
ANTHROPIC = Company("https://api.anthropic.com", "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL")


def find_server(company: Company, base_url: str | None, api_key: str | None) -> ChatServer:
    """The server at ``base_url``, else the one that the company's variable names, else the company's own.

    The key of one company is not sent to another one's server: that gets JUDGE_API_KEY, and one on this machine the
    company's key where there is no JUDGE_API_KEY.

    Raises:
        UserError: no address, or no key for the company's own server.
    """
    named = base_url or _elsewhere(company)
    if named is None:
        key = api_key or get_credential(company.key_name)
        if not key:
            choice = "--judge_model local or --judge_base_url"
            raise UserError(f"no {company.key_name}: set it in .env, or choose {choice}")
        return ChatServer(company.url, urlsplit(company.url).netloc, key, company.key_name, is_own=True)
    where = server_host("--judge_base_url" if base_url else company.url_name, named)
    is_here = urlsplit(named).hostname in ("localhost", "127.0.0.1", "::1")
    key_name = company.key_name if is_here else "JUDGE_API_KEY"
    key = api_key or get_credential("JUDGE_API_KEY") or get_credential(key_name)
    return ChatServer(named, where, key or "", key_name)


def _elsewhere(company: Company) -> str | None:
    """The server that the company's variable names, None where it names the company's own."""
    named = os.environ.get(company.url_name, "").strip()
    if not named or named.rstrip("/") == company.url:
        return None
    where = server_host(company.url_name, named)
    logger.info("%s sends the judge's requests to %s, with JUDGE_API_KEY if that is set", company.url_name, where)
    return named
