"""HTTP answers that must be whole by a time, however slowly they come.

Why     a socket's timeout is for each piece: whoever sends a byte a second keeps a reader for days, and a
        program that is to stop with it.
"""

from __future__ import annotations

import functools
import http.client
import io
import ssl
import time
import urllib.request
from collections.abc import Callable
from typing import Any


class InAll(io.RawIOBase):
    """What a socket brings, until `ends_s` of `now_s`. Reading raises `TimeoutError` from then on."""

    def __init__(self, sock: Any, raw: Any, ends_s: float, now_s: Callable[[], float]) -> None:
        super().__init__()
        self._sock, self._raw = sock, raw
        self._ends_s, self._now_s = ends_s, now_s

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """One piece. Raises `TimeoutError`."""
        left_s = self._ends_s - self._now_s()
        if left_s <= 0:
            raise TimeoutError("the answer was not whole in time")
        self._sock.settimeout(left_s)
        count: int | None = self._raw.readinto(buffer)
        return count

    def close(self) -> None:
        """And the socket with it."""
        self._raw.close()
        super().close()


class Response(http.client.HTTPResponse):
    """An answer that is whole within the connection's own timeout, its head included."""

    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        ends_s = time.monotonic() + (sock.gettimeout() or 0.0)
        self.fp = io.BufferedReader(InAll(sock, self.fp.detach(), ends_s, time.monotonic))


class _Plain(http.client.HTTPConnection):
    response_class = Response


class _Tls(http.client.HTTPSConnection):
    response_class = Response


class _PlainHandler(urllib.request.HTTPHandler):
    def http_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(_Plain, request)


class _TlsHandler(urllib.request.HTTPSHandler):
    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(context=context)
        self._made = functools.partial(_Tls, context=context)

    def https_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(self._made, request)


class _Stays(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return


def opener(context: ssl.SSLContext, *handlers: Any) -> urllib.request.OpenerDirector:
    """Opens addresses, follows no redirect; `timeout` of `open` is for the connection, and for the answer."""
    return urllib.request.build_opener(_PlainHandler(), _TlsHandler(context), _Stays, *handlers)
