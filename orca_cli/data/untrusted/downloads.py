"""Fetch a file over http or https: several addresses, resumed where the server allows it, never an error page as data.

What has arrived is in `NAME.part`, and what it belongs to in `NAME.part.json`, until it is complete and verified; the next
call continues from there, where libraries such as pooch start each file again. Redirects are followed only to http and https,
never from https to http; passwords of ~/.netrc are not sent.
"""

from __future__ import annotations

import hashlib
import http.client
import itertools
import json
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from orca_cli import __version__, signals, storage
from orca_cli.data.untrusted.first_bytes import disguise
from orca_cli.exceptions import ChecksumError, NetworkError, StorageError
from orca_cli.progress import Reporter

if TYPE_CHECKING:
    import requests

TOLERANCE = 0.25  # by how much a size may differ from a rounded one in a description, which may mean MB or MiB
_TRIES = 4  # of one address, without a MiB arriving between them
_MB, _MIB = 10**6, 2**20
_SPARE = 64 * _MIB  # bytes left free on the disk
_HEAD = 512  # bytes that are looked at before anything is written
_REDIRECTS, _MAX_REDIRECTS = (301, 302, 303, 307, 308), 5
_CHUNK = 64 * 1024  # bytes
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


@dataclass(frozen=True)
class Fetched:
    """A file that has arrived: the address that gave it, its size, and the SHA-256 of its content."""

    url: str
    bytes: int
    sha256: str


def fetch(
    place: Path,
    urls: Sequence[str],
    reporter: Reporter,
    *,
    size: int | None = None,
    sha256: str | None = None,
    md5: str | None = None,
    timeout_s: float = 30.0,
    pause_s: float = 1.0,
) -> Fetched:
    """Fetch a file from the first address that gives all of it; it gets its name in one step, at the end.

    Args:
        place: the file; its folder is created.
        urls: http or https, tried in this order.
        reporter: receives each address's answer and the progress.
        size: bytes, as far as known; an answer that differs by more than `TOLERANCE` is refused.
        sha256: 64 hexadecimal digits, where known.
        md5: 32 of them, where the SHA-256 is not known.
        timeout_s: seconds without an answer or without a KiB of data after which an address is given up.
        pause_s: seconds before an address is tried again after a broken transfer; doubles each time.

    Raises:
        NetworkError: no address gave the file; the message has each one's answer.
        ChecksumError: all addresses gave a file with another checksum.
        StorageError: the disk has too little space, or writing failed.
    """
    part = place.with_name(place.name + ".part")
    storage.make_folder(place.parent)
    if part.is_symlink():  # not ours: its target would be written to
        part.unlink()
    if size is not None:
        storage.require_space(place.parent, size - _size(part) + _SPARE, place.name)
    refusals: list[tuple[str, RefusedError]] = []
    with session() as connection:
        download = _Download(connection, part, reporter, size, timeout_s)
        for url in urls:
            try:
                download.complete(url, pause_s)
                digest = _verified(part, size, sha256, md5)
            except RefusedError as refusal:
                reporter.say(f"{url}: {refusal}")
                refusals.append((url, refusal))
                continue
            fetched = Fetched(url, _size(part), digest)
            storage.write_with(place, part.rename)
            _notes(part).unlink(missing_ok=True)
            return fetched
    answers = "; ".join(f"{url}: {refusal}" for url, refusal in refusals) or "no address is known"
    mismatched = {isinstance(refusal, MismatchError) for _, refusal in refusals}
    kind = ChecksumError if mismatched == {True} else NetworkError
    raise kind(f"could not be fetched ({answers})", where=place.name)


def differs(size: int, described: int | None) -> bool:
    """Return whether a file's size is not the described one, which may be rounded."""
    return described is not None and abs(size - described) > TOLERANCE * described


def md5_file(path: Path) -> str:
    """Return the MD5 of a file, 32 hexadecimal digits: against accidents, not against forgers."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def hub_answers() -> bool:
    """Return whether the hub's address answers within a few seconds; the hub's own library retries for half a minute."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    with session() as connection:
        try:
            code = connection.head(constants.ENDPOINT, timeout=_HUB_TIMEOUT_S, allow_redirects=True).status_code
        except (OSError, ValueError):
            return False
    return code < 500 and code not in (403, 407)


@dataclass(frozen=True)
class _Download:
    """A partial file, and how it is completed."""

    connection: requests.Session
    part: Path
    reporter: Reporter
    size: int | None
    timeout_s: float

    def complete(self, url: str, pause_s: float) -> None:
        """Transfer until the file is complete, trying again where the connection breaks."""
        most, failures = _size(self.part), 0
        while True:
            try:
                self._transfer(url)
                return
            except CutOffError as cut:
                signals.check()
                arrived = _size(self.part)
                failures = 0 if arrived >= most + _MIB else failures + 1
                most = max(most, arrived)
                if failures >= _TRIES:
                    raise RefusedError(f"{cut}, {_TRIES} times") from cut
                self.reporter.say(f"{url}: {cut}; trying again, {arrived / _MB:.1f} MB have arrived")
                time.sleep(pause_s * 2 ** max(0, failures - 1))

    def _transfer(self, url: str) -> None:
        part, name = self.part, self.part.name.removesuffix(".part")
        validator = _validator_of_part(part, url)
        start = _size(part) if validator else 0
        headers = {"Range": f"bytes={start}-", "If-Range": validator} if start and validator else {}
        with open_url(self.connection, url, headers, self.timeout_s) as response:
            held = response.headers.get("Content-Range", "").rpartition("/")[2]
            if response.status_code == 416 and start:
                if held == str(start):
                    return  # nothing comes after what is here
                part.unlink()
                raise CutOffError("the file has become shorter")
            start = _start(response, start, validator)
            text = held if start else response.headers.get("Content-Length", "")
            total = int(text) if text.isascii() and text.isdigit() else None
            if total is not None:
                if differs(total, self.size):
                    raise RefusedError(f"has {total:,} bytes, where about {self.size:,} are expected")
                storage.require_space(part.parent, total - start + _SPARE, name)
            chunks = _chunks(response, self.timeout_s)
            if start == 0:
                chunks = itertools.chain([_head(response, chunks, name)], chunks)
                storage.write_bytes(part, b"")  # before the notes name its origin
                notes = {"schema": 1, "url": url, "validator": _validator(response), "bytes": total}
                storage.write_json(_notes(part), notes)
            _write(part, chunks, self.reporter, start, total)
        if total is not None and (arrived := _size(part)) != total:
            if arrived > total:
                part.unlink()
            raise CutOffError(f"the connection broke off at {arrived:,} of {total:,} bytes")


def _start(response: requests.Response, start: int, validator: str | None) -> int:
    """Return where in the file an answer begins; refuse answers that are not the file."""
    code = response.status_code
    if code == 200:
        return 0
    if code == 206 and start:
        follows = response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        if follows and _validator(response) in (validator, None):
            return start
        raise RefusedError("answers with another part than the requested one")
    kind = CutOffError if code == 429 or code >= 500 else RefusedError
    raise kind(f"HTTP {code} {response.reason or http.client.responses.get(code, '')}".strip())


def _head(response: requests.Response, chunks: Iterator[bytes], name: str) -> bytes:
    """Return the first bytes of an answer, checked."""
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind in ("text/html", "application/xhtml+xml"):
        raise RefusedError("answers with a web page, not with the file")
    encoding = response.headers.get("Content-Encoding", "identity").lower()
    if encoding != "identity" and not name.endswith((".gz", ".tgz")):  # those are sometimes sent as their own encoding
        raise RefusedError(f"answers in the encoding '{encoding}', which was not requested")
    head = b""
    while len(head) < _HEAD and (chunk := next(chunks, b"")):
        head += chunk
    if problem := disguise(head[:_HEAD], name):
        raise RefusedError(f"answers with {problem}")
    return head


def _write(part: Path, chunks: Iterator[bytes], reporter: Reporter, start: int, total: int | None) -> None:
    """Append chunks as they arrive, so that an interrupted download can be resumed."""
    name = part.name.removesuffix(".part")
    title, megabytes = (f"{name} (MB)", -(-total // _MB)) if total else (name, 1)
    done = 0
    with open(part, "ab") as file, reporter.track(title, megabytes) as advance:
        for chunk in chunks:
            signals.check()
            try:
                file.write(chunk)
            except OSError as error:
                hint = "free some space and rerun the command"
                raise StorageError(f"writing failed: {error}", where=str(part), hint=hint) from error
            before, done = done // _MB, (done or start) + len(chunk)
            if done // _MB > before:
                advance(done // _MB - before if total else 0, note="" if total else f"{done // _MB} MB")


def _verified(part: Path, size: int | None, sha256: str | None, md5: str | None) -> str:
    """Return the SHA-256 of a complete download; delete it if its size or checksum is wrong."""
    arrived, digest = _size(part), storage.sha256_file(part)
    if differs(arrived, size):
        refusal = RefusedError(f"gave {arrived:,} bytes, where about {size:,} are expected")
    elif sha256 is not None and digest != sha256.lower():
        refusal = MismatchError(f"gave a file of SHA-256 {digest}, not {sha256}")
    elif md5 is not None and (other := md5_file(part)) != md5.lower():
        refusal = MismatchError(f"gave a file of MD5 {other}, not {md5}")
    else:
        return digest
    part.unlink()
    _notes(part).unlink(missing_ok=True)
    raise refusal


def _validator(response: requests.Response) -> str | None:
    """Return the validator of this exact content: a strong ETag, or else Last-Modified."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified")


def _validator_of_part(part: Path, url: str) -> str | None:
    """Return the validator recorded for a partial file; None where it cannot be resumed."""
    try:
        notes = json.loads(_notes(part).read_text(encoding="utf-8"))
        return str(notes["validator"]) if part.exists() and notes["url"] == url and notes["validator"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _notes(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


# One connection: every failure is one of the errors above.


def _chunks(response: requests.Response, timeout_s: float) -> Iterator[bytes]:
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
