"""Fetch a file over http or https: several addresses, resumed where the server allows it, never an error page as data.

What has arrived is in `NAME.part`, and what it belongs to in `NAME.part.txt`, until it is complete and verified; the next call
continues from there, where libraries such as pooch start each file again. Redirects never lead from https to http; passwords
of ~/.netrc are not sent.
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

_TOLERANCE = 0.25  # by how much a size may differ from a rounded one in a description, which may mean MB or MiB
_TRIES = 4  # of one address, without a MiB arriving between them
_MB, _MIB = 10**6, 2**20
_SPARE = 64 * _MIB  # bytes left free on the disk
_HEAD = 512  # bytes that are looked at
_MAX_REDIRECTS = 5
_CHUNK = 64 * 1024  # bytes
PAUSE_S = 1.0  # before an address is tried again
_HUB_TIMEOUT_S = 8.0


class RefusedError(Exception):
    """One address does not give the file; the next one is tried."""


class MismatchError(RefusedError):
    """One address gives a file of another checksum."""


class CutOffError(Exception):
    """The transfer broke off; the same address is tried again."""


class Fetched(NamedTuple):
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
) -> Fetched:
    """Fetch a file from the first address that gives all of it; it gets its name in one step, at the end.

    Args:
        place: the file; its folder is created.
        urls: http or https, tried in this order.
        size: bytes, as far as known; a file that differs by more than a quarter is refused.
        sha256, md5: hexadecimal digits, where known.
        timeout_s: seconds without an answer or without data after which an address is given up.

    Raises:
        NetworkError: no address gave the file; the message has each one's answer.
        ChecksumError: all addresses gave a file with another checksum.
        StorageError: the disk has too little space, or writing failed.
    """
    storage.make_folder(place.parent)
    refusals: dict[str, RefusedError] = {}
    with session() as connection:
        download = _Download(place, reporter, size, connection, timeout_s)
        for url in urls:
            try:
                download.complete(url)
                fetched = Fetched(url, download.arrived, download.verified(sha256, md5))
            except RefusedError as refusal:
                reporter.say(f"{url}: {refusal}")
                refusals[url] = refusal
                continue
            storage.write_with(place, download.part.rename)
            download.notes.unlink(missing_ok=True)
            return fetched
    answers = (
        "; ".join(f"{url}: {refusal}" for url, refusal in refusals.items()) or "no address is known"
    )
    is_mismatch = {isinstance(refusal, MismatchError) for refusal in refusals.values()} == {True}
    raise (ChecksumError if is_mismatch else NetworkError)(
        f"could not be fetched ({answers})", where=place.name
    )


def md5_file(path: Path) -> str:
    """Return the MD5 of a file, 32 hexadecimal digits: against accidents, not against forgers."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def hub_answers() -> bool:
    """Return whether the hub's address answers within 8 s, where its own library tries for half a minute; False offline."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    with session() as connection:
        try:
            code = connection.head(
                constants.ENDPOINT, timeout=_HUB_TIMEOUT_S, allow_redirects=True
            ).status_code
        except (OSError, ValueError):
            return False
    return code < 500 and code not in (403, 407)


def session() -> requests.Session:
    """Return a session that sends nothing of the user's; close it at the end."""
    import requests

    connection = requests.Session()
    headers = {
        "User-Agent": f"orca/{__version__}",
        "Accept-Encoding": "identity",
        "Connection": "close",
    }
    connection.headers.update(headers)
    connection.auth = lambda request: (
        request
    )  # or requests would send the user's passwords of ~/.netrc
    return connection


@contextmanager
def open_url(
    connection: requests.Session, url: str, headers: dict[str, str], timeout_s: float
) -> Iterator[requests.Response]:
    """Request an address and yield the answer; redirects are followed only to http and https, and never from https to http.

    An answer may be an error of the server: its status is the caller's to check. RefusedError where no connection is made, a
    redirect is not followed, or more than five follow one another.
    """
    secure = False
    for _ in range(_MAX_REDIRECTS + 1):
        scheme = url.partition(":")[0].lower()
        if scheme not in ("http", "https") or (secure and scheme == "http"):
            raise RefusedError(f"leads to '{url}', which is not followed")
        secure = scheme == "https"
        connection.close()  # the server may have closed what is left open
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
    """What has arrived of a file in `part`, of about `size` bytes, and where it is from in `notes`."""

    def __init__(
        self,
        place: Path,
        reporter: Reporter,
        size: int | None,
        connection: requests.Session,
        timeout_s: float,
    ) -> None:
        self.name, self.part = place.name, place.with_name(f"{place.name}.part")
        self.notes = place.with_name(f"{place.name}.part.txt")
        self._reporter, self._size, self._connection, self._timeout_s = (
            reporter,
            size,
            connection,
            timeout_s,
        )
        if self.part.is_symlink():  # not ours: its target would be written to
            self.part.unlink()

    @property
    def arrived(self) -> int:
        """Return the bytes that are here."""
        return self.part.stat().st_size if self.part.exists() else 0

    def complete(self, url: str) -> None:
        """Transfer until the file is complete, trying again where the connection breaks."""
        most, failures = self.arrived, 0
        while True:
            try:
                return self._transfer(url)
            except CutOffError as cut:
                signals.check()
                arrived = self.arrived
                failures = 0 if arrived >= most + _MIB else failures + 1
                most = max(most, arrived)
                if failures >= _TRIES:
                    raise RefusedError(f"{cut}, {_TRIES} times") from cut
                self._reporter.say(
                    f"{url}: {cut}; trying again, {arrived / _MB:.1f} MB have arrived"
                )
                time.sleep(PAUSE_S)

    def _transfer(self, url: str) -> None:
        noted = (
            self.notes.read_text(encoding="utf-8").split("\n")
            if self.arrived and self.notes.exists()
            else []
        )
        validator = noted[1] if len(noted) == 2 and noted[0] == url else ""
        start = self.arrived if validator else 0
        headers = {"Range": f"bytes={start}-", "If-Range": validator} if start else {}
        with open_url(self._connection, url, headers, self._timeout_s) as response:
            code, etag = response.status_code, response.headers.get("ETag", "")
            # What validates this exact content: a strong ETag, or else Last-Modified.
            current = etag if etag.startswith('"') else response.headers.get("Last-Modified", "")
            if (
                code == 416 and start
            ):  # nothing comes after what is here, or the file has become shorter
                self.part.unlink()
                raise CutOffError("the file begins anew")
            if code not in (200, 206):
                raise (CutOffError if code == 429 or code >= 500 else RefusedError)(
                    f"HTTP {code} {response.reason}"
                )
            follows = response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
            if code == 206 and not (follows and current in (validator, "")):
                raise RefusedError("answers with another part than the requested one")
            encoding = response.headers.get("Content-Encoding", "identity").lower()
            # Files that are packed are sometimes sent as their own encoding.
            if encoding != "identity" and not self.name.endswith((".gz", ".tgz")):
                raise RefusedError(f"answers in the encoding '{encoding}', which was not requested")
            announced = response.raw.length_remaining
            storage.require_space(self.part.parent, (announced or 0) + _SPARE, self.name)
            if code == 200:
                storage.write_bytes(self.part, b"")  # before the notes name its origin
                storage.write_text(self.notes, f"{url}\n{current}")
            total = None if announced is None else self.arrived + announced
            self._append(response, total)
        if total is not None and self.arrived != total:
            raise CutOffError(f"the connection broke off at {self.arrived:,} of {total:,} bytes")

    def _append(self, response: requests.Response, total: int | None) -> None:
        """Append what arrives, as it was sent and as it comes, so that an interrupted download can be resumed."""
        # read() would wait for a whole chunk from a slow server; old releases of urllib3 have no read1().
        read, chunk, done = getattr(response.raw, "read1", response.raw.read), b"\0", self.arrived
        steps = -(-(total or _MB) // _MB)
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
                before, done = done // _MB, done + len(chunk)
                if self._size is not None and done > (1 + _TOLERANCE) * self._size:
                    self.part.unlink()
                    raise RefusedError(
                        f"gives more than the {self._size:,} bytes that are expected"
                    )
                if done // _MB > before:
                    advance(done // _MB - before)

    def verified(self, sha256: str | None, md5: str | None) -> str:
        """Return the SHA-256 of a complete download; delete it if it is something else, or size or checksum is wrong."""
        digest = storage.sha256_file(self.part)
        with open(self.part, "rb") as file:
            problem = disguise(file.read(_HEAD), self.name)
        if problem:
            refusal = RefusedError(f"answers with {problem}")
        elif self._size is not None and abs(self.arrived - self._size) > _TOLERANCE * self._size:
            refusal = RefusedError(
                f"gave {self.arrived:,} bytes, where about {self._size:,} are expected"
            )
        elif sha256 is not None and digest != sha256.lower():
            refusal = MismatchError(f"gave a file of SHA-256 {digest}, not {sha256}")
        elif md5 is not None and (other := md5_file(self.part)) != md5.lower():
            refusal = MismatchError(f"gave a file of MD5 {other}, not {md5}")
        else:
            return digest
        self.part.unlink()
        self.notes.unlink(missing_ok=True)
        raise refusal


@contextmanager
def _network(kind: type[Exception]) -> Iterator[None]:
    """Turn what the libraries raise into one of our two errors."""
    import urllib3

    try:
        yield
    except (OSError, ValueError, http.client.HTTPException, urllib3.exceptions.HTTPError) as error:
        raise kind(f"{type(error).__name__}: {str(error)[:200]}") from error
