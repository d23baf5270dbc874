"""One connection over http or https; every failure is one of two kinds.

Redirects are followed only to http and https, never from https to http; passwords of ~/.netrc are not sent.
"""

from __future__ import annotations

import http.client
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from orca_cli import __version__

if TYPE_CHECKING:
    import requests

_REDIRECTS, _MAX_REDIRECTS = (301, 302, 303, 307, 308), 5
_CHUNK = 64 * 1024
_SLOWEST = 1024  # bytes that have to arrive within the time limit
_HUB_TIMEOUT_S = 8.0
_BROKEN = "the connection broke off"
_MEANINGS = (
    ("resol|getaddrinfo|Name or service", "the host is not found"),
    ("refused", "the connection is refused"),
    ("unreachable", "the network cannot be reached"),
    ("aborted|reset|IncompleteRead|broken|closed", _BROKEN),
)


class RefusedError(Exception):
    """One address does not give the file; the next one is tried."""


class MismatchError(RefusedError):
    """One address gives a file of another checksum."""


class CutOffError(Exception):
    """The transfer broke off; the same address is tried again."""


def chunks_of(response: requests.Response, timeout_s: float) -> Iterator[bytes]:
    """Yield what arrives, as it was sent; gives up on an address that sends next to nothing."""
    # read() would wait for a whole chunk from a slow server; old releases of urllib3 have no read1().
    read = getattr(response.raw, "read1", response.raw.read)
    since, arrived = time.monotonic(), 0
    while True:
        with _network(timeout_s):
            chunk = read(_CHUNK, decode_content=False)
        if not chunk:
            return
        yield chunk
        arrived += len(chunk)
        if time.monotonic() - since > timeout_s:
            if arrived < _SLOWEST:
                raise CutOffError(f"only {arrived} bytes in {timeout_s:g} s")
            since, arrived = time.monotonic(), 0


def session() -> requests.Session:
    """Return a session that sends nothing of the user's; close it at the end."""
    import requests

    connection = requests.Session()
    headers = {"User-Agent": f"orca/{__version__}", "Accept-Encoding": "identity", "Connection": "close"}
    connection.headers.update(headers)
    connection.auth = lambda request: request  # or requests would send the user's passwords of ~/.netrc
    return connection


@contextmanager
def open_url(
    connection: requests.Session, url: str, headers: dict[str, str], timeout_s: float
) -> Iterator[requests.Response]:
    """Request an address; redirects are followed only to http and https."""
    secure = False
    for _ in range(_MAX_REDIRECTS + 1):
        scheme = urlsplit(url).scheme.lower()
        if scheme not in ("http", "https"):
            raise RefusedError(f"leads to '{url}', and only http and https are followed")
        if secure and scheme != "https":
            raise RefusedError(f"leads from https to '{url}', which anyone on the way could change")
        secure = scheme == "https"
        connection.close()  # the server may have closed what is left open
        with _network(timeout_s, connecting=True):
            response = connection.get(url, headers=headers, stream=True, timeout=timeout_s, allow_redirects=False)
        if response.status_code not in _REDIRECTS or "Location" not in response.headers:
            with response:
                yield response
            return
        url = urljoin(url, response.headers["Location"])
        response.close()
    raise RefusedError(f"redirects more than {_MAX_REDIRECTS} times")


def hub_answers() -> bool:
    """Return whether the hub's address answers within a few seconds; the hub's own library retries for half a minute."""
    import urllib.request

    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
        with urllib.request.urlopen(request, timeout=_HUB_TIMEOUT_S):
            return True
    except (OSError, ValueError) as error:
        code = getattr(error, "code", 500)  # of an HTTPError
        return code < 500 and code not in (403, 407)


@contextmanager
def _network(timeout_s: float, connecting: bool = False) -> Iterator[None]:
    """Turn what the libraries raise into one of our two errors."""
    import requests
    import urllib3

    try:
        yield
    except (requests.Timeout, urllib3.exceptions.TimeoutError, TimeoutError) as error:
        raise CutOffError(f"no answer within {timeout_s:g} s") from error
    except (requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as error:
        text = f"{type(error).__name__}: {str(error)[:100]}"
        if isinstance(error, requests.exceptions.SSLError):
            text = "its certificate is not accepted"
        elif isinstance(error, requests.exceptions.ProxyError):
            text = "the proxy gives no connection"
        else:
            text = next((meaning for pattern, meaning in _MEANINGS if re.search(pattern, str(error))), text)
        kind = RefusedError if connecting and text != _BROKEN else CutOffError
        raise kind(text) from error
    except ValueError as error:  # not an address
        raise RefusedError(f"cannot be requested: {error}") from error
