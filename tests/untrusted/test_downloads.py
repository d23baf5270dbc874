"""Downloads against a server that misbehaves: what arrives is the file or nothing."""

import gzip
import hashlib
from contextlib import contextmanager

import pytest

from orca_cli.exceptions import ChecksumError, NetworkError, StorageError
from orca_cli.untrusted.connections import RefusedError, open_url
from orca_cli.untrusted.downloads import fetch
from orca_cli.untrusted.first_bytes import disguise
from tests.untrusted.server import chunked, drip, serving, status

CONTENT = bytes(range(256)) * 2000  # half a MB
SHA = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def web(monkeypatch):
    with serving(monkeypatch) as server:
        yield server


@pytest.fixture
def get(tmp_path, reporter):
    """Fetch into tmp_path/a.dat without pauses."""

    def call(*urls, **settings):
        return fetch(tmp_path / "a.dat", urls, settings.pop("reporter", reporter), pause_s=0, **settings)

    return call


def left(tmp_path):
    return sorted(path.name for path in tmp_path.iterdir())


class Impatient:
    """A reporter whose user presses Ctrl-C when some of the file is here."""

    def say(self, text):
        pass

    @contextmanager
    def track(self, description, total):
        def advance(steps=1, note=""):
            raise KeyboardInterrupt

        yield advance


def interrupted(get, tmp_path, url, content):
    """Begin a download and break it off; returns the number of bytes that are left of it."""
    with pytest.raises(KeyboardInterrupt):
        get(url, reporter=Impatient())
    part = (tmp_path / "a.dat.part").read_bytes()
    assert 0 < len(part) < len(content)
    assert content.startswith(part)
    assert not (tmp_path / "a.dat").exists()
    return len(part)


def test_a_connection_that_breaks_off_is_gone_on_with(web, get, tmp_path):
    url = web.file("/a", CONTENT, cuts=[100_000, 150_000, 1])
    found = get(url, sha256=SHA)
    assert (found.url, found.bytes, found.sha256) == (url, len(CONTENT), SHA)
    assert (tmp_path / "a.dat").read_bytes() == CONTENT
    assert left(tmp_path) == ["a.dat"]
    asked = [headers.get("Range") for _, headers in web.requests]
    assert asked == [None, "bytes=100000-", "bytes=250000-", "bytes=250001-"]
    assert web.sent == len(CONTENT)  # nothing came twice


def test_an_interrupted_download_goes_on_at_the_next_call(web, get, tmp_path):
    content = CONTENT * 4
    url = web.file("/a", content)
    begun = interrupted(get, tmp_path, url, content)
    get(url)
    assert (tmp_path / "a.dat").read_bytes() == content
    assert web.requests[-1][1]["Range"] == f"bytes={begun}-"
    assert left(tmp_path) == ["a.dat"]


@pytest.mark.parametrize(
    "change", [{"etag": '"2"'}, {"ranges": False}, {"etag": None}, {"etag": 'W/"1"'}], ids=lambda change: str(change)
)
def test_what_cannot_be_gone_on_with_begins_anew(web, get, tmp_path, change):
    old = CONTENT * 4
    interrupted(get, tmp_path, web.file("/a", old), old)
    new = bytes(reversed(old))
    get(web.file("/a", new, **change))
    assert (tmp_path / "a.dat").read_bytes() == new


def test_a_weak_name_of_a_content_names_nothing(web, get, tmp_path):
    old = CONTENT * 4
    interrupted(get, tmp_path, web.file("/a", old, etag='W/"1"'), old)
    new = bytes(reversed(old))
    get(web.file("/a", new, etag='W/"1"'))
    assert (tmp_path / "a.dat").read_bytes() == new


def test_a_part_from_one_address_is_not_gone_on_with_from_another(web, get, tmp_path):
    interrupted(get, tmp_path, web.file("/a", CONTENT * 4), CONTENT * 4)
    get(web.file("/b", CONTENT))
    assert "Range" not in web.requests[-1][1]
    assert (tmp_path / "a.dat").read_bytes() == CONTENT


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_body_of_unknown_length(web, get, tmp_path, is_whole):
    web.routes["/a"] = chunked([CONTENT, CONTENT, CONTENT], is_whole)
    if is_whole:
        assert get(f"{web.url}/a").bytes == 3 * len(CONTENT)
    else:
        with pytest.raises(NetworkError, match="broke off"):
            get(f"{web.url}/a")
        assert not (tmp_path / "a.dat").exists()


def test_a_part_of_another_content_is_refused(web, get, tmp_path):
    """The server ignores If-Range and would have two files glued together."""
    content = CONTENT * 4
    url = web.file("/a", content)
    interrupted(get, tmp_path, url, content)
    body = b"other"
    start = (tmp_path / "a.dat.part").stat().st_size
    headers = {"ETag": '"2"', "Content-Range": f"bytes {start}-{start + 4}/{start + 5}"}
    web.routes["/a"] = status(206, body, "application/octet-stream", **headers)
    with pytest.raises(NetworkError, match="another part"):
        get(url)
    web.routes["/a"] = status(206, body, "application/octet-stream", **headers | {"Content-Range": "bytes 0-4/5"})
    with pytest.raises(NetworkError, match="another part"):
        get(url)


def test_a_file_that_has_become_shorter_begins_anew(web, get, tmp_path):
    content = CONTENT * 4
    url = web.file("/a", content)
    interrupted(get, tmp_path, url, content)
    short = CONTENT[:1000]
    web.file("/a", short)
    whole = web.routes["/a"]
    nothing_there = status(416, b"", "text/plain", **{"Content-Range": "bytes */1000"})
    web.routes["/a"] = lambda handler: (nothing_there if handler.headers.get("Range") else whole)(handler)
    get(url)
    assert (tmp_path / "a.dat").read_bytes() == short


PAGES = {
    "403": (status(403), "HTTP 403"),
    "404": (status(404), "HTTP 404"),
    "page": (status(200, b"<!DOCTYPE html>login", "text/html"), "a web page"),
    "page without markup": (status(200, b"quota exceeded", "text/html; charset=utf-8"), "a web page"),
    "page without its type": (status(200, b"\n <HTML>quota", "application/octet-stream"), "a web page"),
    "xml": (status(200, b"<?xml version='1.0'?><Error>", "application/xml"), "markup"),
    "nothing": (status(200, b"", "application/octet-stream"), "an empty file"),
    "pointer": (status(200, b"version https://git-lfs.github.com/spec/v1\noid", "text/plain"), "Git LFS"),
    "encoded": (
        status(200, gzip.compress(b"x"), "application/octet-stream", **{"Content-Encoding": "gzip"}),
        "encoding 'gzip'",
    ),
    "file": (status(302, b"", Location="file:///etc/passwd"), "only http and https"),
    "ftp": (status(301, b"", Location="ftp://127.0.0.1/a"), "only http and https"),
    "circle": (status(302, b"", Location="/x"), "more than 5 times"),
    "broken": (status(500), "HTTP 500"),
}


@pytest.mark.parametrize("case", PAGES)
def test_what_is_no_file_is_never_saved_and_the_next_address_is_asked(web, get, tmp_path, case, reporter):
    web.routes["/x"], words = PAGES[case]
    with pytest.raises(NetworkError) as failure:
        get(f"{web.url}/x")
    assert words in str(failure.value)
    assert f"{web.url}/x" in str(failure.value)
    assert left(tmp_path) == []
    found = get(f"{web.url}/x", web.file("/good", CONTENT), sha256=SHA)
    assert found.url == f"{web.url}/good"
    assert any(words in line for line in reporter.lines)
    assert (tmp_path / "a.dat").read_bytes() == CONTENT


def test_every_address_s_answer_is_said(web, get):
    web.routes["/y"] = status(403)
    with pytest.raises(NetworkError) as failure:
        get(f"{web.url}/x", f"{web.url}/y", "http://127.0.0.1:1/z")
    text = str(failure.value)
    for words in ("/x: HTTP 404", "/y: HTTP 403", "/z: the connection is refused"):
        assert words in text
    assert "\n" not in text


def test_a_wrong_checksum_leaves_nothing(web, get, tmp_path):
    wrong = web.file("/wrong", b"0" + CONTENT)
    with pytest.raises(ChecksumError, match="SHA-256"):
        get(wrong, sha256=SHA)
    assert left(tmp_path) == []
    with pytest.raises(NetworkError):  # not the checksum alone
        get(wrong, f"{web.url}/none", sha256=SHA)
    assert get(wrong, web.file("/right", CONTENT), sha256=SHA).url.endswith("/right")


def test_a_file_of_another_size_is_refused_before_it_is_read(web, get, tmp_path):
    url = web.file("/a", CONTENT)
    with pytest.raises(NetworkError, match=r"512,000 bytes, where about 860,000,000 are expected"):
        get(url, size=860_000_000)
    assert left(tmp_path) == []
    get(url, size=500_000)  # rounded, as in a description


@pytest.mark.parametrize("answer", [drip(10, 5), drip(10_000, 0.05), drip(10_000, 0.05, b"y" * 600)])
def test_a_slow_server_is_given_up(web, get, tmp_path, answer):
    web.routes["/slow"] = answer
    with pytest.raises(NetworkError, match=r"no answer within 0\.15 s|only \d+ bytes in 0\.15 s"):
        get(f"{web.url}/slow", timeout_s=0.15)
    assert not (tmp_path / "a.dat").exists()


def test_a_busy_server_is_asked_again(web, get, tmp_path):
    url = web.file("/a", CONTENT)
    good, answers = web.routes["/a"], [status(503), status(429)]
    web.routes["/a"] = lambda handler: (answers.pop() if answers else good)(handler)
    get(url)
    assert (tmp_path / "a.dat").read_bytes() == CONTENT


def test_redirections_are_followed(web, get):
    web.file("/there", CONTENT)
    web.routes["/here"] = status(302, b"", Location="/there")
    assert get(f"{web.url}/here").sha256 == SHA


def test_no_redirection_leads_from_https_to_http():
    class Connection:
        def get(self, url, **settings):
            return Response(url)

        def close(self):
            pass

    class Response:
        status_code = 302

        def __init__(self, url):
            self.headers = {"Location": "http://host/b" if url.startswith("https://") else "https://host/a"}

        def close(self):
            pass

    for url in ("https://host/a", "http://host/b"):
        with pytest.raises(RefusedError, match="from https to 'http://host/b'"), open_url(Connection(), url, {}, 1.0):
            pass


def test_a_full_disk_is_said_before_a_byte_is_asked_for(web, get, monkeypatch):
    monkeypatch.setattr("orca_cli.storage.disk._free_bytes", lambda folder: 2**20)
    url = web.file("/a", CONTENT)
    with pytest.raises(StorageError, match=r"no space left for a\.dat: .* needed"):
        get(url, size=len(CONTENT))
    assert web.requests == []
    with pytest.raises(
        StorageError, match=r"no space left for a\.dat: .* needed"
    ):  # where the size is known from the answer alone
        get(url)


def test_passwords_of_the_user_stay_here(web, get, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    get(web.file("/a", CONTENT))
    assert "Authorization" not in web.requests[0][1]


@pytest.mark.parametrize(
    ("name", "head", "words"),
    [
        ("a.npz", b"PK\x03\x04", ""),
        ("a.npz", b"\x93NUMPY", "not a .npz file"),
        ("a.npy", b"\x93NUMPY\x01\x00", ""),
        ("a.tar.gz", b"\x1f\x8b\x08", ""),
        ("a.tar.gz", b"BZh9", "not a .gz file"),
        ("a.zip", b"\xef\xbb\xbf<html>", "a web page"),
        ("a.xml", b"<?xml", ""),
        ("a.pkl", b"\x80\x04", ""),
    ],
)
def test_files_are_known_by_their_first_bytes(name, head, words):
    found = disguise(head, name)
    assert words in found
    assert bool(found) == bool(words)
