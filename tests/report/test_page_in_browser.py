"""The page in a real browser: no error, tables sort, figures are visible, in both themes and at a phone's width."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import browser
from tests.browser import Browser
from tests.report.test_page import HOSTILE, _page, _tree
from tests.report.trees import add_run, details

PROGRAM = browser.path()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason=f"no browser: {', '.join(browser.NAMES)}")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    assert PROGRAM is not None
    with browser.started(PROGRAM) as started:
        yield started


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("page")
    root = _tree(folder / "runs", tasks=3, seeds=3)
    add_run(root, task="task0", metric="mmd", seed=7, state="failed")
    (folder / "page.html").write_text(_page(root, against="none"))
    return (folder / "page.html").as_uri()


def _column(chromium: Browser, table: str, place: int) -> list[str]:
    return chromium.value(
        f"Array.from(document.getElementById('{table}').tBodies[0].rows, row => row.cells[{place}].textContent)"
    )


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [380, 1280])
def test_it_opens_without_an_error_and_fits_the_window(chromium: Browser, address: str, width: int, dark: bool) -> None:
    chromium.open(address, width=width, dark=dark)
    assert chromium.errors == []
    assert chromium.requests == [address]
    assert chromium.value("document.documentElement.scrollWidth") <= width
    ground = chromium.value("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(22, 25, 29)" if dark else "rgb(255, 255, 255)")


@pytest.mark.parametrize("dark", [False, True])
def test_texts_stand_out_from_the_ground(chromium: Browser, address: str, dark: bool) -> None:
    chromium.open(address, dark=dark)
    # Contrast as WCAG 2 defines it; 4.5 is what it asks for texts. Bars and lines need 3.
    worst = chromium.value("""(() => {
        const rgb = text => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
        const light = colour => rgb(colour).map(c => c / 255).map(c => c <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
            .reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0);
        const ratio = (a, b) => (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
        const ground = light(getComputedStyle(document.body).backgroundColor);
        const worst = (names, key) => Math.min(...Array.from(document.querySelectorAll(names),
            one => ratio(light(getComputedStyle(one)[key]), ground)));
        return [worst('p, h1, h2, td, th, a, small, li, figcaption, summary', 'color'), worst('svg text', 'fill'),
            worst('svg .l', 'stroke')];
    })()""")
    assert worst[0] >= 4.5
    assert worst[1] >= 4.5
    assert worst[2] >= 3


def test_tables_sort_by_a_click_and_back_by_another(chromium, address):
    chromium.open(address)
    click = "document.querySelector('#table-of-runs thead th:nth-child(3) button').click()"
    shown = lambda: [float(text) for text in _column(chromium, "table-of-runs", 2)]  # noqa: E731
    before = shown()
    assert before != sorted(before)
    chromium.value(click)
    assert shown() == sorted(before)
    chromium.value(click)
    assert shown() == sorted(before, reverse=True)
    state = "document.querySelector('#table-of-runs thead th:nth-child(3)').getAttribute('aria-sort')"
    assert chromium.value(state) == "descending"
    # Simple models stay below, whatever results are sorted by.
    chromium.value("document.querySelector('#table-of-results thead th:nth-child(2) button').click()")
    names = "Array.from(document.getElementById('table-of-results').rows, row => row.cells[0].textContent)"
    rows = chromium.value(names)
    assert (rows[1], rows[-2:]) == ("minilm · otdd · full", ["best baseline", "trivial"])


def test_a_filter_leaves_the_rows_with_its_words(chromium, address):
    chromium.open(address)
    chromium.value(
        "(box => { box.value = 'task1 MMD'; box.dispatchEvent(new Event('input')) })"
        "(document.querySelector('input[data-for=table-of-runs]'))"
    )
    rows = "Array.from(document.querySelectorAll('#table-of-runs tbody tr'))"
    assert chromium.value(f"{rows}.filter(row => row.offsetHeight > 0).length") == 3
    said = "document.querySelector('input[data-for=table-of-runs] + output').textContent"
    assert chromium.value(said) == "3 of 36 rows"


@pytest.mark.parametrize("width", [380, 1280])
def test_figures_are_drawn_inside_their_frames(chromium, address, width):
    chromium.open(address, width=width)
    figures = chromium.value("""(() => {
        document.querySelectorAll('details').forEach(one => one.open = true);
        return Array.from(document.querySelectorAll('figure svg'), svg => {
            const box = svg.getBoundingClientRect(), inner = svg.getBBox();
            return [box.width, box.height, inner.x, inner.x + inner.width, inner.height,
                svg.querySelectorAll('.l,.b,.m').length, svg.viewBox.baseVal.width, svg.viewBox.baseVal.height];
        });
    })()""")
    assert len(figures) > 12
    for box_width, box_height, left, right, height, marks, view_width, view_height in figures:
        assert box_width > 250
        assert box_height > 60
        assert -2 <= left <= right <= view_width + 2
        assert height <= view_height + 4
        assert marks > 0


def test_hostile_names_run_nothing(chromium: Browser, tmp_path: Path) -> None:
    for seed in range(2):
        name = f"2026-01-01_00-00-00.00000{seed}_x"
        run = add_run(tmp_path, task="t", body=HOSTILE, metric=HOSTILE, seed=seed, name=name, **details(seed))
        assert run.exists()
    (tmp_path / "page.html").write_text(_page(tmp_path))
    chromium.open((tmp_path / "page.html").as_uri())
    assert chromium.errors == []
    assert chromium.value("document.scripts.length") == 1
    assert chromium.value("document.images.length") == 0
    assert "<script>alert(1)</script>" in chromium.value("document.body.innerText")


def test_without_its_script_everything_is_there(chromium: Browser, address: str) -> None:
    chromium.open(address, scripts=False)
    assert chromium.value("document.querySelectorAll('#table-of-runs tbody tr').length") == 36
    assert chromium.value("document.querySelector('.tools').offsetHeight") == 0
    chromium.value("document.querySelector('#table-of-runs thead button').click()")
    assert chromium.value("document.querySelector('#table-of-runs thead th').getAttribute('aria-sort')") is None
