"""The HTML page: one file without network, the same bytes every time; it works in a browser."""

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest

from orca_cli.report.formats import Page, page_of
from orca_cli.report.layout import ALARM
from tests import browser
from tests.commands.called import read_text
from tests.report.trees import HOSTILE, add_run, compared, details, hostile, table_of


class Document(HTMLParser):
    """A page as a browser reads it: its elements, and the text that people read."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text, self.open = [], "", []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br", "hr", "input", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += data


def written(root):
    return page_of(Page(table_of(root), compared(root)), "orca report --format html", "")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Return a hundred completed runs, and a failed one: five tasks, four methods, five seeds."""
    root = tmp_path_factory.mktemp("page")
    for i in range(5):
        for metric, gain in (("otdd", 0.05), ("mmd", 0.02), ("moments", 0.01), ("none", 0.0)):
            for seed in range(5):
                value = 0.3 + 0.02 * i - gain + 0.003 * seed
                fields = details(seed, metric=metric)
                add_run(root, task=f"task{i}", metric=metric, seed=seed, value=value, **fields)
    add_run(root, task="task0", metric="mmd", seed=7, state="failed")
    return root


def test_a_hundred_runs_are_a_small_file_that_fetches_nothing(root):
    text = written(root)
    assert text == written(root)  # the same bytes every time
    assert len(text.encode()) < 500_000
    document = Document(text)
    sections = ("Gains", "Gains by data set", "Results", "Figures")
    assert all(section in document.text for section in sections)
    (policy,) = [facts["content"] for _, facts in document.elements if facts.get("http-equiv")]
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    for tag, facts in document.elements:
        assert tag not in ("link", "iframe", "object", "embed", "img", "image", "base", "form")
        assert not {"src", "style", "srcset", "title"} & facts.keys()
        assert facts.get("xlink:href", "#").startswith("#")  # a mark that is drawn several times
        assert not [name for name in facts if name.startswith("on")]
    assert not re.search(r"url\([^#]|@import", text)


def test_names_from_run_folders_stay_names(tmp_path):
    text = page_of(Page(hostile(tmp_path), compared(tmp_path)), f"orca report {HOSTILE}", HOSTILE)
    tags = [tag for tag, _ in Document(text).elements]
    assert [tags.count(tag) for tag in ("script", "style", "img")] == [1, 1, 0]
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202e]", text)
    assert "<script>alert(1)</script>" in Document(text).text


def test_the_command_writes_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    add_run(tmp_path / "runs", selected={"on": "test"})
    add_run(tmp_path / "runs", seed=2, state="failed")
    read_text("report", "runs", "--out", "page.html")  # its suffix decides the format
    page_text = (tmp_path / "page.html").read_text()
    assert page_text.startswith("<!DOCTYPE html>")
    document = Document(page_text)
    assert "NonFiniteError: the loss became NaN" in document.text
    marked = [tag for tag, facts in document.elements if facts.get("class") == "alarm"]
    assert (marked, ALARM in document.text) == (["p", "small"], True)  # the test split chose


PROGRAM = browser.path()
FIGURES = """(() => {
    return Array.from(document.querySelectorAll('figure svg'), svg => {
        const box = svg.getBoundingClientRect(), inner = svg.getBBox(), view = svg.viewBox.baseVal;
        return box.width > 250 && box.height > 60
            && inner.x >= -2 && inner.x + inner.width <= view.width + 2
            && inner.height <= view.height + 4 && svg.querySelectorAll('path').length > 3;
    });
})()"""


@pytest.fixture(scope="module")
def chromium():
    """Return a real browser; without one its tests are skipped."""
    if PROGRAM is None:
        pytest.skip(f"no browser: {', '.join(browser.NAMES)}")
    with browser.started(PROGRAM) as started:
        yield started


@pytest.fixture(scope="module")
def address(root):
    (root / "page.html").write_text(written(root))
    return (root / "page.html").as_uri()


def test_the_page_says_how_each_run_compares_with_simple_models(tmp_path):
    add_run(tmp_path, comparison={"text": "3.0 points better than <a forest>"})
    add_run(tmp_path, seed=1)
    page = page_of(Page(table_of(tmp_path)), "orca report", "")
    assert "seed 0</b> 3.0 points better than &lt;a forest&gt;</li>" in page
    assert "seed 1</b>" not in page


@pytest.mark.parametrize(("width", "dark"), [(380, True), (1280, False)])
def test_it_fits_the_window_and_figures_lie_inside_their_frames(chromium, address, width, dark):
    chromium.open(address, width=width, dark=dark)
    assert (chromium.errors, chromium.requests) == ([], [address])
    assert chromium.value("document.documentElement.scrollWidth") <= width
    ground = chromium.value("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(22, 25, 29)" if dark else "rgb(255, 255, 255)")
    figures = chromium.value(FIGURES)
    assert len(figures) > 12
    assert all(figures)


def test_tables_sort_by_a_click(chromium, address):
    def sorted_by(column):
        button = f"#table-of-results thead th:nth-child({column + 1}) button"
        chromium.value(f"document.querySelector('{button}').click()")
        rows = "Array.from(document.getElementById('table-of-results').tBodies[0].rows"
        return chromium.value(
            f"{rows}, row => Number(row.cells[{column}].firstChild.textContent.split(' ')[0]))"
        )

    chromium.open(address)
    errors = sorted_by(2)
    assert errors == sorted(errors)
    assert sorted_by(2) == errors[::-1]


def test_a_filter_leaves_the_rows_with_its_words(chromium, address):
    chromium.open(address)
    chromium.value(
        "(box => { box.value = 'full MM'; box.dispatchEvent(new Event('input')) })"
        "(document.querySelector('input[data-for=table-of-results]'))"
    )
    rows = "Array.from(document.querySelectorAll('#table-of-results tbody tr'))"
    assert chromium.value(f"{rows}.filter(row => row.offsetHeight > 0).length") == 1
