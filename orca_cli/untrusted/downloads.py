"""Fetch a file over http or https: several addresses, resumed where the server allows it, never an error page as data.

What has arrived lies in `NAME.part`, and what it belongs to in `NAME.part.json`, until it is whole and verified; the next
call goes on from there; libraries such as pooch begin each file anew.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from orca_cli import signals, storage
from orca_cli.exceptions import ChecksumError, NetworkError, StorageError
from orca_cli.untrusted.connections import CutOffError, RefusedError, chunks_of, open_url, session
from orca_cli.untrusted.first_bytes import GZIP, NPY, ZIP
from orca_cli.untrusted.memory import check_disk

if TYPE_CHECKING:
    import requests

TOLERANCE = 0.25  # by how much a size may differ from a rounded one in a description, which may mean MB or MiB
_TRIES = 4  # of one address, without a MiB arriving between them
_PAUSE_S = 1.0  # before the second try; doubles with each
_MB = 10**6
_MIB = 2**20
_SPARE = 64 * _MIB  # bytes that are left free on the disk
_HEAD = 512
_MAGIC = {".npy": (NPY,), ".npz": ZIP, ".zip": ZIP, ".gz": (GZIP,), ".tgz": (GZIP,)}


class Progress(Protocol):
    """The part of interfaces.Reporter that is used here."""

    def say(self, text: str) -> None:
        """Log one line."""

    def track(self, description: str, total: int) -> Any:
        """Return a context manager that gives a function `advance(steps=1, note="")`."""


@dataclass(frozen=True)
class Fetched:
    """A file that has arrived.

    Args:
        url: the address that gave it.
        bytes: its size.
        sha256: of its content.
    """

    url: str
    bytes: int
    sha256: str


def fetch(
    place: Path,
    urls: Sequence[str],
    reporter: Progress,
    *,
    size: int | None = None,
    sha256: str | None = None,
    md5: str | None = None,
    timeout_s: float = 30.0,
    pause_s: float = _PAUSE_S,
) -> Fetched:
    """Fetch a file from the first address that gives it whole; it gets its name in one step, at the end.

    Args:
        place: the file; its folder is made.
        urls: addresses, http or https, asked in this order.
        reporter: is told what each address answers, and how far it is.
        size: bytes, as far as known; an answer that differs by more than `TOLERANCE` is refused.
        sha256: 64 hexadecimal digits, where known.
        md5: 32 of them, where the SHA-256 is not known.
        timeout_s: seconds without an answer or without a KiB of data after which an address is given up.
        pause_s: seconds before an address is asked again after a transfer that broke off; doubles each time.

    Raises:
        NetworkError: no address gave the file; what each one answered is said.
        ChecksumError: all addresses gave a file of another checksum.
        StorageError: the disk has too little space, or writing failed.
    """
    part = place.with_name(place.name + ".part")
    storage.make_folder(place.parent)
    if size is not None:
        check_disk(size - _size(part) + _SPARE, place.parent, place.name)
    refusals: list[tuple[str, RefusedError]] = []
    with session() as connection:
        for url in urls:
            try:
                _complete(connection, url, part, reporter, size=size, timeout_s=timeout_s, pause_s=pause_s)
                digest = _verified(part, size, sha256, md5)
            except RefusedError as refusal:
                reporter.say(f"{url}: {refusal}")
                refusals.append((url, refusal))
                continue
            fetched = Fetched(url, _size(part), digest)
            storage.write_with(place, part.rename)
            _notes(part).unlink(missing_ok=True)
            return fetched
    raise _failure(place, refusals)


def disguise(head: bytes, name: str) -> str:
    """Return what a file is that cannot be what its name says; empty where nothing speaks against it.

    Args:
        head: its first bytes, some hundred.
        name: of the file, with its suffix.
    """
    suffix = Path(name).suffix.lower()
    if not head:
        return "an empty file"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<") and suffix not in (".xml", ".html", ".htm", ".svg"):
        return "a web page or another document in markup"
    if head.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, not the file that it points to"
    magic = _MAGIC.get(suffix)
    if magic is not None and not head.startswith(magic):
        return f"no {suffix} file (it begins with {head[:8]!r})"
    return ""


def differs(found: int, described: int | None) -> bool:
    """Return whether a file's size is not the described one, which may be rounded."""
    return described is not None and abs(found - described) > TOLERANCE * described


def md5_file(path: Path) -> str:
    """Return the MD5 of a file, 32 hexadecimal digits: against accidents, not against forgers."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _failure(place: Path, refusals: list[tuple[str, RefusedError]]) -> NetworkError | ChecksumError:
    answers = "; ".join(f"{url}: {refusal}" for url, refusal in refusals) or "no address is known"
    kind = ChecksumError if refusals and all(refusal.mismatch for _, refusal in refusals) else NetworkError
    return kind(f"could not be fetched ({answers})", where=place.name)


def _complete(
    connection: requests.Session,
    url: str,
    part: Path,
    reporter: Progress,
    *,
    size: int | None,
    timeout_s: float,
    pause_s: float,
) -> None:
    """Transfer until the file is whole, asking again where the connection breaks off."""
    most, failures = _size(part), 0
    while True:
        try:
            _transfer(connection, url, part, reporter, size, timeout_s)
            return
        except CutOffError as cut:
            signals.check()
            arrived = _size(part)
            failures = 0 if arrived >= most + _MIB else failures + 1
            most = max(most, arrived)
            if failures >= _TRIES:
                raise RefusedError(f"{cut}, {_TRIES} times") from cut
            reporter.say(f"{url}: {cut}; asked again, {arrived / _MB:.1f} MB are here")
            time.sleep(pause_s * 2 ** max(0, failures - 1))


def _transfer(
    connection: requests.Session, url: str, part: Path, reporter: Progress, size: int | None, timeout_s: float
) -> None:
    validator = _validator_of_part(part, url)
    start = _size(part) if validator else 0
    headers = {"Range": f"bytes={start}-", "If-Range": validator} if start and validator else {}
    with open_url(connection, url, headers, timeout_s) as response:
        if response.status_code == 416 and start:
            if response.headers.get("Content-Range", "").rpartition("/")[2] == str(start):
                return  # there is nothing after what is here
            part.unlink()
            raise CutOffError("the file has become shorter")
        start = _start(response, start, validator)
        total = _total(response, start)
        if total is not None and differs(total, size):
            raise RefusedError(f"has {total:,} bytes, where about {size:,} are expected")
        if total is not None:
            check_disk(total - start + _SPARE, part.parent, part.name.removesuffix(".part"))
        chunks = chunks_of(response, timeout_s)
        head = b""
        if start == 0:
            head = _head(response, chunks, part.name.removesuffix(".part"))
            _begin(part, url, response, total)
        _write(part, head, chunks, reporter, start, total)
    if total is not None and _size(part) != total:
        if _size(part) > total:
            part.unlink()
        raise CutOffError(f"the connection broke off at {_size(part):,} of {total:,} bytes")


def _start(response: requests.Response, start: int, validator: str | None) -> int:
    """Return the place in the file at which an answer begins; refuse what is no file."""
    code = response.status_code
    if code == 206 and start:
        follows = response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        if follows and _validator(response) in (validator, None):
            return start
        raise RefusedError("answers with another part than was asked for")
    if code == 200:
        return 0
    text = f"HTTP {code} {response.reason or http.client.responses.get(code, '')}".strip()
    if code == 429 or code >= 500:
        raise CutOffError(text)
    raise RefusedError(text)


def _head(response: requests.Response, chunks: Iterator[bytes], name: str) -> bytes:
    """Return the first bytes of an answer after a look at what they are."""
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind in ("text/html", "application/xhtml+xml"):
        raise RefusedError("answers with a web page, not with the file")
    encoding = response.headers.get("Content-Encoding", "identity").lower()
    if encoding != "identity" and not name.endswith(
        (".gz", ".tgz")
    ):  # such a file is sometimes sent with its own encoding
        raise RefusedError(f"answers in the encoding '{encoding}', which was not asked for")
    head = b""
    for chunk in chunks:
        head += chunk
        if len(head) >= _HEAD:
            break
    problem = disguise(head[:_HEAD], name)
    if problem:
        raise RefusedError(f"answers with {problem}")
    return head


def _begin(part: Path, url: str, response: requests.Response, total: int | None) -> None:
    """Empty the partial file, and only then note whose it is."""
    storage.write_bytes(part, b"")
    storage.write_json(_notes(part), {"schema": 1, "url": url, "validator": _validator(response), "bytes": total})


def _write(part: Path, head: bytes, chunks: Iterator[bytes], reporter: Progress, start: int, total: int | None) -> None:
    """Append what arrives, so that all of it is there where the process ends."""
    name = part.name.removesuffix(".part")
    done = start
    megabytes = max(1, -(-total // _MB)) if total else 1
    with open(part, "ab") as file, reporter.track(f"{name} (MB)" if total else name, megabytes) as advance:
        shown = _show(advance, 0, start, total)
        for chunk in _chain(head, chunks):
            signals.check()
            try:
                file.write(chunk)
            except OSError as error:
                raise StorageError(
                    f"writing failed: {error}", where=str(part), hint="free some space, repeat"
                ) from error
            done += len(chunk)
            shown = _show(advance, shown, done, total)


def _show(advance: Callable[..., None], shown: int, done: int, total: int | None) -> int:
    """Move the bar by whole megabytes; returns how many it has been moved by."""
    megabytes = done // _MB
    if megabytes > shown:
        if total:
            advance(megabytes - shown)
        else:
            advance(0, note=f"{megabytes} MB")
    return megabytes


def _chain(head: bytes, chunks: Iterator[bytes]) -> Iterator[bytes]:
    yield head
    yield from chunks


def _verified(part: Path, size: int | None, sha256: str | None, md5: str | None) -> str:
    """Return the digest of what has arrived; delete it where it is not what it should be."""
    found = _size(part)
    digest = storage.sha256_file(part)
    refusal = None
    if differs(found, size):
        refusal = RefusedError(f"gave {found:,} bytes, where about {size:,} are expected")
    elif sha256 is not None and digest != sha256.lower():
        refusal = RefusedError(f"gave a file of SHA-256 {digest}, not {sha256}", mismatch=True)
    elif md5 is not None and (other := md5_file(part)) != md5.lower():
        refusal = RefusedError(f"gave a file of MD5 {other}, not {md5}", mismatch=True)
    if refusal is not None:
        part.unlink()
        _notes(part).unlink(missing_ok=True)
        raise refusal
    return digest


def _total(response: requests.Response, start: int) -> int | None:
    """Return the size of the whole file, where the answer says it."""
    if start:
        text = response.headers.get("Content-Range", "").rpartition("/")[2]
    else:
        text = response.headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdigit() else None


def _validator(response: requests.Response) -> str | None:
    """Return what names this very content: a strong ETag, or else the date of its last change."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified")


def _validator_of_part(part: Path, url: str) -> str | None:
    """Return what names the content that a partial file belongs to; None where it cannot be gone on with."""
    try:
        notes = json.loads(_notes(part).read_text(encoding="utf-8"))
        return str(notes["validator"]) if part.exists() and notes["url"] == url and notes["validator"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _notes(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
