"""What the SDKs send requests with: each answer is read whole, within a time and a size."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from typing import Any

from utils.errors import UserError

_MOST_REDIRECTIONS = 10
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
_MOST_BYTES = 8 * 2**20  # a chat completion has some thousand; a page or a broken server may have any number


class _BoundedClient:
    """Stands before a client class of httpx and replaces how it sends.

    httpx's own time-out is for each read, so a server that sends a byte now and then would never be given up, and it
    puts no limit on what it reads, nor on what a small compressed body becomes.
    """

    def __init__(self, *, seconds: float, is_final: Callable[[int, str], bool], **options: Any) -> None:
        super().__init__(**options)
        self._seconds = seconds
        self._is_final = is_final

    async def send(self, request: Any, **options: Any) -> Any:
        """The whole response; one that is too long comes without its body.

        Raises:
            httpx.ReadTimeout: it was not there in time, which the SDKs take for passing.
        """
        try:
            return await asyncio.wait_for(self._send_whole(request, options), self._seconds)
        except asyncio.TimeoutError as error:
            raise library_of(type(self)).ReadTimeout("the whole answer took too long", request=request) from error

    async def _send_whole(self, request: Any, options: dict[str, Any]) -> Any:
        response = await self._send_on(request, options)
        body = bytearray()
        try:
            async for piece in response.aiter_bytes():
                body += piece
                if len(body) > _MOST_BYTES:
                    body.clear()
                    break
        finally:
            await response.aclose()
        headers = [
            (name, value)
            for name, value in response.headers.multi_items()
            if name.lower() not in ("content-encoding", "content-length", "transfer-encoding")  # it is decoded now
        ]
        whole = type(response)(
            response.status_code,
            headers=headers,
            content=bytes(body),
            request=response.request,
            extensions=response.extensions,
        )
        if whole.is_error and self._is_final(whole.status_code, whole.text):
            whole.headers["x-should-retry"] = "false"
        return whole

    async def _send_on(self, request: Any, options: dict[str, Any]) -> Any:
        """The response with its body unread, after redirections within the host.

        httpx would read what comes with a redirection whole. Another host is one that the user did not name: it gets
        neither the text nor the key.
        """
        options = {**options, "stream": True, "follow_redirects": False}
        response = await super().send(request, **options)  # type: ignore[misc]
        for _ in range(_MOST_REDIRECTIONS):
            following = response.next_request
            if following is None or not _is_as_safe(request.url, following.url):
                break
            await response.aclose()
            response = await super().send(following, **options)  # type: ignore[misc]
        return response


def bounded_client(sdk_client: type, seconds: float, is_final: Callable[[int, str], bool]) -> Any:
    """An HTTP client for an SDK, whose requests fail after ``seconds`` as a time-out does and read some megabytes.

    Args:
        sdk_client: the SDK's ``DefaultAsyncHttpxClient``, with its settings for proxies and connections.
        seconds: until a request has failed, from its first byte sent to the last one received.
        is_final: whether the status and text of an error say that to repeat the request is useless.

    Raises:
        UserError: a proxy or the certificates that the environment names cannot be used.
    """
    bounded = type("BoundedClient", (_BoundedClient, sdk_client), {})
    try:
        return bounded(seconds=seconds, is_final=is_final)
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


def _is_as_safe(asked: Any, other: Any) -> bool:
    return bool(other.host == asked.host and other.scheme in (asked.scheme, "https"))


def library_of(derived: type) -> Any:
    """httpx, or the package that has followed it, whichever a class is derived from."""
    name = next(kind.__module__ for kind in derived.__mro__ if kind.__module__.startswith("httpx"))
    return sys.modules[name.partition(".")[0]]
