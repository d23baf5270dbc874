"""The HTML page: one file without network, small, the same bytes every time, and names from the disk stay names."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

from orca_cli.cli import main
from orca_cli.report.page.document import page
from orca_cli.report.records.collect import collect
from orca_cli.report.records.study_members import Origin
from orca_cli.report.statistics.paired import compare
from orca_cli.report.tables.table import build_table
from tests.report.trees import add_environment, add_run, details

HOSTILE = "\"><script>alert(1)</script><img src=x onerror=alert(2)>'&lt;</title></style>\u202e\x1b]0;x\x07-->"
_VOID = {"meta", "img", "br", "hr", "input", "link"}


class _Document(HTMLParser):
    """What a browser would make of a page: its elements, and the text that people read."""

    def __init__(self, text):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, tag
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text.append(data)


def _tree(root, *, tasks=5, seeds=5):
    for place in range(tasks):
        for metric, gain in (("otdd", 0.05), ("mmd", 0.02), ("moments", 0.01), ("none", 0.0)):
            for seed in range(seeds):
                value = 0.3 + 0.02 * place - gain + 0.003 * seed
                run = add_run(
                    root, task=f"task{place}", metric=metric, seed=seed, value=value, **details(seed, metric=metric)
                )
                add_environment(run)
    return root


def _page(root, *, against=""):
    table = build_table(collect([root]))
    comparison = compare(table, "metric", against, 0.5) if against else None
    return page(table, comparison, "orca report --format html", Origin())


def _table(document, name):
    """Return the texts of a table's body."""
    body = re.search(rf'<table id="{name}">.*?<tbody>(.*?)</tbody>', document, re.DOTALL)
    assert body, name
    rows = re.findall(r"<tr>(.*?)</tr>", body[1], re.DOTALL)
    return [[re.sub("<.*?>", " ", cell).strip() for cell in re.split(r"</t[hd]>", row)[:-1]] for row in rows]


def test_a_hundred_runs_are_one_small_file(tmp_path):
    text = _page(_tree(tmp_path), against="none")
    assert text == _page(tmp_path, against="none")  # the same bytes every time
    assert len(text.encode()) < 500_000
    document = _Document(text)
    assert not document.open
    words = "".join(document.text)
    sections = ("Verdicts", "Results", "Simple models", "Curves", "Times", "Runs", "What is missing", "Environment")
    assert all(section in words for section in sections)
    assert len(_table(text, "table-of-runs")) == 100
    assert text.count("<svg") > 20
    assert "<title" not in text.partition("</head>")[2]  # nothing is said by a pointer alone
    assert not [facts for _, facts in document.elements if "title" in facts]
    for number in range(70):
        add_run(tmp_path / "many", task=f"task{number}", **details(0, epochs=2))
    assert "Curves of 60 of 70 methods on tasks are drawn" in _page(tmp_path / "many")


def test_the_page_can_fetch_nothing(tmp_path):
    text = _page(_tree(tmp_path, tasks=1, seeds=2))
    document = _Document(text)
    (policy,) = [facts["content"] or "" for tag, facts in document.elements if facts.get("http-equiv")]
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    for tag, facts in document.elements:
        assert tag not in ("link", "iframe", "object", "embed", "img", "image", "use", "base", "form")
        assert not {"src", "style", "srcset", "xlink:href"} & facts.keys()
        assert not [name for name in facts if name.startswith("on")]
    assert "url(" not in text
    assert "@import" not in text


def test_names_from_run_folders_stay_names(tmp_path):
    fields = details(0)
    fields["baselines"] = {HOSTILE: {"error": 0.3, "seconds": 1.0, "about": HOSTILE}}
    fields["decided"] = {HOSTILE: {"value": HOSTILE}}
    fields["selected"] = {"by": HOSTILE, "epoch": 3}
    names = dict.fromkeys(("task", "body", "source", "metric", "finetune", "protocol"), HOSTILE)
    for number, (metric, state) in enumerate((("none", "completed"), (HOSTILE, "completed"), ("x", "failed"))):
        run_names = names | {"metric": metric, "task": "t"}
        run = add_run(
            tmp_path, **run_names, seed=0, state=state, variant={HOSTILE: HOSTILE}, size=HOSTILE,
            name=f"2026-01-01_00-00-0{number}.000000_x", error={"name": HOSTILE}, **fields,
        )  # fmt: skip
        for record in (run / "status.json", run / "result.json"):
            if record.exists():
                content = json.loads(record.read_text())
                error = content.get("error") or {"kind": HOSTILE, "message": HOSTILE}
                record.write_text(json.dumps(content | {"task": HOSTILE, "error": error}))
        add_environment(run, python=HOSTILE, platform=HOSTILE, device=HOSTILE, packages={HOSTILE: HOSTILE})
        (run / "overrides.txt").write_text(f"task={HOSTILE}\n")
    table = build_table(collect([tmp_path]))
    comparison = compare(table, "metric", "none", 0.5)
    text = page(table, comparison, f"orca report {HOSTILE}", Origin(HOSTILE, ("set",), folder=HOSTILE))
    document = _Document(text)
    assert not document.open
    tags = [tag for tag, _ in document.elements]
    assert tags.count("script") == 1
    assert tags.count("style") == 1
    assert "img" not in tags
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202e]", text)
    assert "<script>alert(1)</script>" in "".join(document.text)


def test_every_run_without_a_result_is_there_with_its_command(tmp_path):
    add_environment(add_run(tmp_path, seed=0))
    add_environment(add_run(tmp_path, seed=1))
    add_environment(add_run(tmp_path, seed=0, metric="none"))
    add_environment(add_run(tmp_path, seed=2, state="failed"))
    (tmp_path / "digits" / "2026-01-01_00-00-00.000000_x").mkdir()
    rows = _table(_page(tmp_path), "table-of-holes")
    assert [row[1] for row in rows] == ["failed", "not run", "broken"]
    assert rows[0][2] == "NonFiniteError: the loss became NaN"
    assert rows[0][3] == "orca run task=digits body=minilm metric=otdd finetune=full seed=2"
    assert rows[1][3] == "orca run task=digits body=minilm source=stdlib_docs metric=none finetune=full seed=1"
    assert rows[2][2] == "no status.json: never started, or not a run"


def test_the_command_writes_the_page_and_shows_it(tmp_path, monkeypatch, capsys):
    add_run(tmp_path / "runs", **details(0))
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or True)
    monkeypatch.chdir(tmp_path)
    assert main(["report", "runs", "--format", "html"]) == 0
    assert capsys.readouterr().out.startswith("<!DOCTYPE html>")
    assert main(["report", "runs", "--format", "html", "--out", "page.html"]) == 0
    page_text = (tmp_path / "page.html").read_text()
    assert page_text.startswith("<!DOCTYPE html>")
    assert "--out page.html" in page_text
    capsys.readouterr()
    assert main(["report", "runs", "--open"]) == 0
    assert opened == [(tmp_path / "orca-report.html").as_uri()]
    assert capsys.readouterr().err == "written: orca-report.html\n"
