"""What the SDKs send requests with: each answer is read whole, within a time and a size."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from typing import Any

from utils.errors import UserError

_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
_MOST_BYTES = 8 * 2**20  # a chat completion has some thousand; a page or a broken server may have any number
_ROLES = re.compile(
    r"roles must alternate|system (?:role|message|prompt)|role.{0,20}\bsystem\b|only user and assistant|jinja exception"
    r"|(?:first|conversation).{0,40}\buser\b",
    re.IGNORECASE,
)
_QUOTA_CODES = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "credit balance")


class _BoundedClient:
    """Stands before a client class of httpx and replaces how it sends.

    httpx's own time-out is for each read, so a server that sends a byte now and then would never be given up, and it
    puts no limit on what it reads, nor on what a small compressed body becomes.
    """

    async def send(self, request: Any, **_: object) -> Any:
        """The whole response; one that is too long comes without its body.

        Redirections are not followed: another host is one that the user did not name.

        Raises:
            httpx.ReadTimeout: it was not there in time, which the SDKs take for passing.
        """
        try:
            return await asyncio.wait_for(self._send_whole(request), request.extensions["timeout"]["read"])
        except asyncio.TimeoutError as error:
            raise library_of(type(self)).ReadTimeout("the whole answer took too long", request=request) from error

    async def _send_whole(self, request: Any) -> Any:
        response = await super().send(request, stream=True, follow_redirects=False)  # type: ignore[misc]
        body = bytearray()
        try:
            async for piece in response.aiter_bytes():
                body += piece
                if len(body) > _MOST_BYTES:
                    body.clear()
                    break
        finally:
            await response.aclose()
        headers = response.headers.copy()
        for name in ("content-encoding", "content-length", "transfer-encoding"):  # it is decoded now
            headers.pop(name, None)
        status = response.status_code
        if status == 200:
            status = _status_inside(bytes(body))
        whole = type(response)(status, headers=headers, content=bytes(body), request=request)
        if whole.is_error and _is_useless_to_repeat(whole.status_code, whole.text):
            whole.headers["x-should-retry"] = "false"
        return whole


def _status_inside(body: bytes) -> int:
    """200, or the status of the error that an answer with 200 holds in place of a message, as gateways send it."""
    if b'"error"' not in body:
        return 200
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):  # told where the answer is read
        return 200
    if not isinstance(answer, dict) or not answer.get("error") or answer.get("choices") or answer.get("content"):
        return 200
    error = answer["error"]
    codes = [error.get("code"), error.get("status")] if isinstance(error, dict) else []
    for code in [*codes, answer.get("code"), answer.get("status")]:
        if re.fullmatch(r"[45][0-9][0-9]", str(code)):
            return int(str(code))
    return 502


def _is_useless_to_repeat(status: int, text: str) -> bool:
    """Whether an error will not pass; the libraries take every 429 and 500 for one that does."""
    unsupported = "response_format" in text or "json_schema" in text or mentions_roles(text)
    return (status == 429 or status >= 500) and (mentions_quota(text) or unsupported)


def mentions_roles(text: str) -> bool:
    """Whether a server's words are those of a chat template that knows no system role."""
    return _ROLES.search(text) is not None


def mentions_quota(text: str) -> bool:
    """Whether a server's words say that the account is out of credit."""
    return any(code in text.lower() for code in _QUOTA_CODES)


def bounded_client(sdk_client: type) -> Any:
    """An HTTP client for an SDK, whose requests fail after the SDK's time-out in all, and read some megabytes.

    It has the settings for proxies and connections of ``sdk_client``, the SDK's ``DefaultAsyncHttpxClient``.

    Raises:
        UserError: a proxy or the certificates that the environment names cannot be used.
    """
    bounded = type("BoundedClient", (_BoundedClient, sdk_client), {})
    try:
        return bounded()
    except OSError as error:
        names = " or ".join(name for name in _CERTIFICATES if os.environ.get(name)) or "the system"
        raise UserError(
            f"cannot read the certificates of {names} ({error.strerror or type(error).__name__}). Name a file of "
            "certificates in PEM, or unset the variable"
        ) from error
    except (ImportError, ValueError, library_of(bounded).InvalidURL) as error:
        # Their values may hold passwords.
        names = ", ".join(sorted(name for name in os.environ if name.lower() in _PROXIES)) or "NO_PROXY"
        raise UserError(
            f"cannot use the proxy in {names} of the environment ({type(error).__name__}). Set it to an address "
            "such as http://proxy.example:3128, or unset it; socks5:// needs: pip install socksio"
        ) from error


def library_of(derived: type) -> Any:
    """httpx, or the package that has followed it, whichever a class is derived from."""
    name = next(kind.__module__ for kind in derived.__mro__ if kind.__module__.startswith("httpx"))
    return sys.modules[name.partition(".")[0]]
