"""Fetch a file over http or https.

A file may have several addresses. A download is resumed if the server allows it. An error page of a
server is never stored as the file.

Until the file is complete and verified, the bytes that have arrived are in `NAME.part`, and their
origin in `NAME.part.txt`. The next call continues after these bytes; libraries such as pooch would
start again. Redirects from https to http are not followed, and passwords in ~/.netrc are not sent.
"""

from __future__ import annotations

import hashlib
import http.client
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urljoin

from orca_cli import __version__, signals, storage
from orca_cli.data.untrusted.first_bytes import disguise
from orca_cli.exceptions import ChecksumError, NetworkError
from orca_cli.progress import Reporter

if TYPE_CHECKING:
    import requests

# Allowed relative difference from the expected size, which is rounded and may mean MB or MiB.
_TOLERANCE = 0.25
# Largest number of consecutive tries of an address in which less than a MiB arrives.
_MAX_TRIES = 4
_MB = 10**6
_MIB = 2**20
# Bytes that stay free on the disk.
_SPARE = 64 * _MIB
# Number of first bytes from which a web page instead of the file is recognised.
_HEAD = 512
_MAX_REDIRECTS = 5
# Number of bytes that are read at once.
_CHUNK = 64 * 1024
# Seconds to wait before an address is tried again.
PAUSE_S = 1.0
_HUB_TIMEOUT_S = 8.0


class RefusedError(Exception):
    """An address does not provide the file; the next address is tried."""


class MismatchError(RefusedError):
    """An address provides a file with a wrong checksum."""


class CutOffError(Exception):
    """The connection was lost during the transfer; the same address is tried again."""


class Fetched(NamedTuple):
    """A fetched file: its address, its size, and the SHA-256 of its content."""

    url: str
    bytes: int
    sha256: str


def fetch(
    path: Path,
    urls: Sequence[str],
    reporter: Reporter,
    *,
    size: int | None = None,
    sha256: str | None = None,
    md5: str | None = None,
    timeout_s: float = 30.0,
) -> Fetched:
    """Fetch a file from the first address that provides it completely.

    The file gets its name in one step, at the end.

    Args:
        path: path of the file; its folder is created if it is missing.
        urls: http or https addresses, which are tried in this order.
        reporter: shows progress.
        size: approximate size in bytes, if known; a file whose size differs by more than a quarter
            is refused.
        sha256, md5: expected checksums as hexadecimal digits, if known.
        timeout_s: time-out in seconds without an answer or without data; then the next address is
            tried.

    Raises:
        NetworkError: no address provided the file; the message has the answer of each address.
        ChecksumError: all addresses provided a file with a wrong checksum.
        StorageError: the disk has too little space, or writing failed.
    """
    storage.make_folder(path.parent)
    refusals: dict[str, RefusedError] = {}
    with session() as connection:
        download = _Download(path, reporter, size=size, connection=connection, timeout_s=timeout_s)
        for url in urls:
            try:
                download.complete(url)
                arrived = download.arrived
                digest = download.verified(sha256, md5)
            except RefusedError as refusal:
                reporter.say(f"{url}: {refusal}")
                refusals[url] = refusal
                continue
            storage.write_with(path, download.part.rename)
            # After the rename, because without its notes a part would be fetched from the start.
            download.notes.unlink(missing_ok=True)
            return Fetched(url=url, bytes=arrived, sha256=digest)
    answers = "; ".join(f"{url}: {refusal}" for url, refusal in refusals.items())
    message = f"could not be fetched ({answers or 'no address is known'})"
    is_mismatch = all(isinstance(refusal, MismatchError) for refusal in refusals.values())
    if refusals and is_mismatch:
        raise ChecksumError(message, where=path.name)
    raise NetworkError(message, where=path.name)


def md5_file(path: Path) -> str:
    """Return the MD5 of a file, 32 hexadecimal digits; it reveals damage, but not forgery."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def hub_answers() -> bool:
    """Return whether the hub's address answers within 8 s; False in offline mode.

    The hub's own library would try for half a minute.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    with session() as connection:
        try:
            response = connection.head(
                constants.ENDPOINT, timeout=_HUB_TIMEOUT_S, allow_redirects=True
            )
        except (OSError, ValueError):
            return False
    code = response.status_code
    return code < 500 and code not in (403, 407)


def session() -> requests.Session:
    """Return a session that sends none of the user's passwords; the caller closes it."""
    import requests

    connection = requests.Session()
    headers = {
        "User-Agent": f"orca/{__version__}",
        # Uncompressed, so that lengths and ranges count the bytes of the file.
        "Accept-Encoding": "identity",
        "Connection": "close",
    }
    connection.headers.update(headers)
    # Otherwise requests would send the user's passwords from ~/.netrc.
    connection.auth = lambda request: request
    return connection


@contextmanager
def open_url(
    connection: requests.Session, url: str, headers: dict[str, str], timeout_s: float
) -> Iterator[requests.Response]:
    """Request an address and yield the answer.

    Redirects are followed only to http and https, and never from https to http. The answer may be
    an error of the server, so the caller has to check its status.

    Raises:
        RefusedError: the connection failed, a redirect is not allowed, or there are more than five
            redirects.
    """
    is_secure = False
    for _ in range(_MAX_REDIRECTS + 1):
        # The first address and every redirect are checked.
        scheme = url.partition(":")[0].lower()
        if scheme not in ("http", "https") or (is_secure and scheme == "http"):
            raise RefusedError(f"redirects to '{url}', which is not allowed")
        is_secure = scheme == "https"
        # The server may have closed a connection that is still open on this side.
        connection.close()
        with _network(RefusedError):
            response = connection.get(
                url, headers=headers, stream=True, timeout=timeout_s, allow_redirects=False
            )
        with response:
            if not response.is_redirect:
                yield response
                return
            url = urljoin(url, response.headers["Location"])
    raise RefusedError(f"redirects more than {_MAX_REDIRECTS} times")


class _Download:
    """A file that is being fetched.

    Args:
        path: path of the file.
        reporter: shows progress.
        size: approximate size in bytes; None if it is unknown.
        connection: session that makes the requests.
        timeout_s: time-out in seconds, as in `fetch`.

    Attributes:
        part: file with the bytes that have arrived.
        notes: file with the address of these bytes, and the server's validator of their content.
    """

    def __init__(
        self,
        path: Path,
        reporter: Reporter,
        *,
        size: int | None,
        connection: requests.Session,
        timeout_s: float,
    ) -> None:
        self.name = path.name
        self.part = path.with_name(f"{path.name}.part")
        self.notes = path.with_name(f"{path.name}.part.txt")
        self._reporter = reporter
        self._size = size
        self._connection = connection
        self._timeout_s = timeout_s
        # Only another user can have planted a link, and its target would be overwritten.
        if self.part.is_symlink():
            self.part.unlink()

    @property
    def arrived(self) -> int:
        """Number of bytes that have arrived."""
        return self.part.stat().st_size if self.part.exists() else 0

    def complete(self, url: str) -> None:
        """Transfer the file until it is complete; after a lost connection, try again.

        Raises:
            RefusedError: the address does not provide the file, or the connection is lost too
                often.
        """
        farthest = self.arrived
        failures = 0
        while True:
            try:
                return self._transfer(url)
            except CutOffError as cut:
                signals.check()
                arrived = self.arrived
                failures += 1
                # Tries with progress do not count, so an unstable connection still gets the file.
                if arrived >= farthest + _MIB:
                    failures = 0
                farthest = max(farthest, arrived)
                if failures >= _MAX_TRIES:
                    raise RefusedError(f"{cut} ({_MAX_TRIES} times)") from cut
                progress = f"{arrived / _MB:.1f} MB have arrived"
                self._reporter.say(f"{url}: {cut}; trying again, {progress}")
                time.sleep(PAUSE_S)

    def _transfer(self, url: str) -> None:
        validator = self._noted_validator(url)
        start = self.arrived if validator else 0
        # If-Range: if the content has changed, the server sends the whole file, with status 200.
        headers = {"Range": f"bytes={start}-", "If-Range": validator} if start else {}
        with open_url(self._connection, url, headers, self._timeout_s) as response:
            etag = response.headers.get("ETag", "")
            # Only a strong ETag, or else Last-Modified, identifies exactly this content.
            current = etag if etag.startswith('"') else response.headers.get("Last-Modified", "")
            self._check_answer(response, start, is_same_content=current in (validator, ""))
            # None if the server does not announce the length.
            announced = response.raw.length_remaining
            storage.require_space(self.part.parent, (announced or 0) + _SPARE, self.name)
            # Status 200 means the whole file, even if only the missing part was requested.
            if response.status_code == 200:
                # Emptied before the notes change, because notes must never describe other bytes.
                storage.write_bytes(self.part, b"")
                storage.write_text(self.notes, f"{url}\n{current}")
            total = None if announced is None else self.arrived + announced
            self._append(response, total)
        # If no length was announced, `verified` compares size and checksum.
        if total is not None and self.arrived != total:
            raise CutOffError(f"the connection was lost after {self.arrived:,} of {total:,} bytes")

    def _noted_validator(self, url: str) -> str:
        """Return the validator of the arrived bytes; empty if they are not from `url`."""
        if not self.arrived or not self.notes.exists():
            return ""
        lines = self.notes.read_text(encoding="utf-8").split("\n")
        # Bytes from another address may belong to another version of the file.
        is_of_url = len(lines) == 2 and lines[0] == url
        return lines[1] if is_of_url else ""

    def _check_answer(
        self, response: requests.Response, start: int, *, is_same_content: bool
    ) -> None:
        """Refuse an answer that is neither the file nor its bytes from `start` on."""
        code = response.status_code
        # Status 416: the server's file has no bytes at `start`, so it is not longer than the part.
        if code == 416 and start:
            self.part.unlink()
            raise CutOffError("the server cannot resume the download, so the download starts again")
        message = f"HTTP {code} {response.reason}"
        # Another try may succeed, so the bytes that have arrived are kept.
        is_overloaded = code == 429 or code >= 500
        if is_overloaded:
            raise CutOffError(message)
        if code not in (200, 206):
            raise RefusedError(message)
        # A server may send a part that was not requested.
        is_continued = response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        if code == 206 and not (is_continued and is_same_content):
            raise RefusedError("sent a part of the file that was not requested")
        encoding = response.headers.get("Content-Encoding", "identity").lower()
        # Some servers declare the compression of a packed file as an encoding.
        if encoding != "identity" and not self.name.endswith((".gz", ".tgz")):
            raise RefusedError(f"sent the file encoded as '{encoding}' instead of unencoded")

    def _append(self, response: requests.Response, total: int | None) -> None:
        """Append the answer undecoded, as soon as bytes arrive, so that it can be resumed."""
        # read() would wait for a whole chunk from a slow server. Old releases of urllib3 do not
        # have read1().
        read = getattr(response.raw, "read1", response.raw.read)
        chunk = b"\0"
        arrived = self.arrived
        steps = -(-(total or _MB) // _MB)  # megabytes, rounded up
        with (
            open(self.part, "ab") as file,
            self._reporter.track(f"{self.name} (MB)", steps) as advance,
        ):
            while chunk:
                signals.check()
                with _network(CutOffError):
                    chunk = read(_CHUNK, decode_content=False)
                with storage.guarded(self.part):
                    file.write(chunk)
                shown = arrived // _MB
                arrived += len(chunk)
                if self._size is not None and arrived > (1 + _TOLERANCE) * self._size:
                    self.part.unlink()
                    message = f"sent more than the expected {self._size:,} bytes"
                    raise RefusedError(message)
                if arrived // _MB > shown:
                    advance(arrived // _MB - shown)

    def verified(self, sha256: str | None, md5: str | None) -> str:
        """Return the SHA-256 of a complete download; a download of a wrong file is deleted.

        Raises:
            RefusedError: it is a web page or similar, or has a wrong size.
            MismatchError: it has a wrong checksum.
        """
        digest = storage.sha256_file(self.part)
        refusal = self._refusal(digest, sha256, md5)
        if refusal is None:
            return digest
        self.part.unlink()
        self.notes.unlink(missing_ok=True)
        raise refusal

    def _refusal(self, digest: str, sha256: str | None, md5: str | None) -> RefusedError | None:
        """Return the reason why a complete download is not the file; None if it is the file."""
        with open(self.part, "rb") as file:
            # Before the checksums, because "a web page" says more than a digest.
            problem = disguise(file.read(_HEAD), self.name)
        if problem:
            return RefusedError(f"sent {problem}")
        size = self._size
        if size is not None and abs(self.arrived - size) > _TOLERANCE * size:
            return RefusedError(f"sent {self.arrived:,} bytes, expected about {size:,}")
        if sha256 is not None and digest != sha256.lower():
            return MismatchError(f"sent a file with SHA-256 {digest}, expected {sha256}")
        if md5 is not None:
            md5_digest = md5_file(self.part)
            if md5_digest != md5.lower():
                return MismatchError(f"sent a file with MD5 {md5_digest}, expected {md5}")
        return None


@contextmanager
def _network(kind: type[Exception]) -> Iterator[None]:
    """Convert errors of the libraries to `kind`, which is RefusedError or CutOffError."""
    import urllib3

    try:
        yield
    except (OSError, ValueError, http.client.HTTPException, urllib3.exceptions.HTTPError) as error:
        raise kind(f"{type(error).__name__}: {str(error)[:200]}") from error
