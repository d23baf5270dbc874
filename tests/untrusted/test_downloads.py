"""Downloads against a server that misbehaves: what arrives is the file or nothing."""

import hashlib
import io
from contextlib import contextmanager

import pytest
import requests

from orca_cli.data.untrusted import downloads
from orca_cli.data.untrusted.downloads import RefusedError, fetch, open_url
from orca_cli.exceptions import ChecksumError, NetworkError
from tests.tasks.builders import refused
from tests.untrusted.conftest import Quiet
from tests.untrusted.server import chunked, drip, status

CONTENT = bytes(range(256)) * 2000  # half a MB
SHA = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def get(tmp_path, reporter, monkeypatch):
    """Return a call that fetches into tmp_path/a.dat without pauses, and leaves nothing else.

    It compares the file, where a content is given.
    """

    monkeypatch.setattr(downloads, "PAUSE_S", 0)

    def call(*urls, content=None, **settings):
        download = fetch(tmp_path / "a.dat", urls, settings.pop("reporter", reporter), **settings)
        assert content is None or (tmp_path / "a.dat").read_bytes() == content
        assert [path.name for path in tmp_path.iterdir()] == ["a.dat"]
        return download

    return call


class Impatient(Quiet):
    """A reporter whose user presses Ctrl-C once a part of the file has arrived."""

    @contextmanager
    def track(self, description, total):
        def advance(steps=1, note=""):
            raise KeyboardInterrupt

        yield advance


@pytest.fixture
def begun(web, get, tmp_path):
    """Return a call that begins a download and breaks it off.

    It returns the address, the content and the number of bytes that have arrived.
    """

    def call():
        content = CONTENT * 4
        url = web.file("/a", content)
        with pytest.raises(KeyboardInterrupt):
            get(url, reporter=Impatient())
        part = (tmp_path / "a.dat.part").read_bytes()
        assert 0 < len(part) < len(content)
        assert content.startswith(part)
        assert not (tmp_path / "a.dat").exists()
        return url, content, len(part)

    return call


def test_a_connection_that_breaks_off_is_gone_on_with(web, get):
    url = web.file("/a", CONTENT, cuts=[100_000, 150_000, 1])
    download = get(url, content=CONTENT, sha256=SHA)
    assert (download.url, download.bytes, download.sha256) == (url, len(CONTENT), SHA)
    ranges = [headers.get("Range") for _, headers in web.requests]
    assert ranges == [None, "bytes=100000-", "bytes=250000-", "bytes=250001-"]
    assert web.sent == len(CONTENT)  # nothing came twice


@pytest.mark.parametrize("change", [{"etag": '"2"'}, {"ranges": False}])
def test_what_cannot_be_gone_on_with_begins_anew(web, get, begun, change):
    _, content, _ = begun()
    new = bytes(reversed(content))
    get(web.file("/a", new, **change), content=new)


def test_a_part_that_is_a_planted_link_is_not_written_through(
    get, begun, tmp_path, tmp_path_factory
):
    url, content, size = begun()
    linked = (tmp_path / "a.dat.part").rename(tmp_path_factory.mktemp("elsewhere") / "mine")
    (tmp_path / "a.dat.part").symlink_to(linked)
    get(url, content=content)
    assert linked.stat().st_size == size


def test_a_body_of_another_length_is_refused(web, get):
    with refused("sent 512,000 bytes, expected about 860,000,000", NetworkError):
        get(web.file("/a", CONTENT), size=860_000_000)


def test_a_body_may_be_longer_than_a_rounded_length(web, get):
    get(web.file("/a", CONTENT), content=CONTENT, size=500_000)


def test_a_body_of_unknown_length_arrives(web, get):
    web.routes["/a"] = chunked([CONTENT, CONTENT], is_whole=True)
    get(f"{web.url}/a", content=CONTENT * 2)


@pytest.mark.parametrize(
    ("size", "message"),
    [(None, "Connection broken"), (600_000, "sent more than the expected 600,000 bytes")],
)
def test_a_body_of_unknown_length_is_refused(web, get, tmp_path, size, message):
    web.routes["/a"] = chunked([CONTENT, CONTENT], is_whole=False)
    with refused(message, NetworkError):
        get(f"{web.url}/a", size=size)
    assert not (tmp_path / "a.dat").exists()


def test_a_part_of_another_content_is_refused(web, get, begun):
    """The server ignores If-Range and would have two files glued together."""
    url, _, start = begun()
    headers = {"ETag": '"2"', "Content-Range": f"bytes {start}-{start + 4}/{start + 5}"}
    web.routes["/a"] = status(206, b"other", "application/octet-stream", **headers)
    with refused("a part of the file that was not requested", NetworkError):
        get(url)


PAGES = {
    "page": (status(200, b"<!DOCTYPE html>login", "text/html"), "a web page"),
    "page without its type": (
        status(200, b"\n <HTML>quota", "application/octet-stream"),
        "a web page",
    ),
    "pointer": (
        status(200, b"version https://git-lfs.github.com/spec/v1\noid", "text/plain"),
        "Git LFS",
    ),
    "encoded": (
        status(200, b"x", "application/zip", **{"Content-Encoding": "gzip"}),
        "encoded as 'gzip' instead of unencoded",
    ),
    "file": (
        status(302, b"", Location="file:///etc/passwd"),
        "redirects to 'file:///etc/passwd', which is not allowed",
    ),
    "circle": (status(302, b"", Location="/x"), "more than 5 times"),
}


@pytest.mark.parametrize("case", PAGES)
def test_pages_are_never_saved(web, get, tmp_path, case):
    web.routes["/x"], message = PAGES[case]
    with refused(f"{web.url}/x.*{message}", NetworkError):
        get(f"{web.url}/x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("case", PAGES)
def test_the_next_address_is_asked_after_a_page(web, get, case, reporter):
    web.routes["/x"], message = PAGES[case]
    web.routes["/y"] = status(302, b"", Location=web.file("/good", CONTENT))
    get(f"{web.url}/x", f"{web.url}/y", content=CONTENT, sha256=SHA)
    assert any(message in line for line in reporter.lines)


def test_a_wrong_checksum_leaves_nothing(web, get, tmp_path):
    with refused("SHA-256", ChecksumError):
        get(web.file("/wrong", b"0" + CONTENT), sha256=SHA)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_checksum_and_a_404_are_a_network_error(web, get):
    with refused(None, NetworkError):
        get(web.file("/wrong", b"0" + CONTENT), f"{web.url}/none", sha256=SHA)


def test_the_next_address_is_asked_after_a_wrong_checksum(web, get):
    wrong = web.file("/wrong", b"0" + CONTENT)
    download = get(wrong, web.file("/right", CONTENT), content=CONTENT, sha256=SHA)
    assert download.url.endswith("/right")


def test_a_silent_server_is_given_up(web, get):
    web.routes["/slow"] = drip(10, 5)
    with refused(r"[Tt]imed out", NetworkError):
        get(f"{web.url}/slow", timeout_s=0.15)


def test_passwords_of_the_user_stay_here(web, get, tmp_path_factory, monkeypatch):
    netrc = tmp_path_factory.mktemp("home") / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    get(web.file("/a", CONTENT))
    assert "Authorization" not in web.requests[0][1]


def test_no_redirection_leads_from_https_to_http():
    class Connection:
        def get(self, url, **settings):
            response = requests.Response()
            response.status_code = 302
            response.raw = io.BytesIO()
            response.headers["Location"] = "http://host/b"
            return response

        def close(self):
            pass

    connection = open_url(Connection(), "https://host/a", {}, 1.0)
    with pytest.raises(RefusedError, match="'http://host/b', which is not allowed"), connection:
        pass
