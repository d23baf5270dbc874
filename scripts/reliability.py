"""Run the reliability suite and publish its figures: reports/reliability.json and docs/reliability.md.

    python scripts/reliability.py                       the pr tier, some minutes
    python scripts/reliability.py --tier nightly        all cases
    python scripts/reliability.py -- -k damage          some tests; the results of other tests are kept from the last report
    python scripts/reliability.py --table               rewrite the tables from the last report

Every figure was counted by a test; no figure is entered by hand. A figure whose precondition did not hold on this machine is
"not run", and a figure whose test failed before it counted is "failed"; neither is ever shown as passed. A report contains the
digests of the code that it is about. Once more than a quarter of these files differ, a test fails (`stale`). The exit code is
pytest's.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
REPORT = ROOT / "reports" / "reliability.json"
PAGE = ROOT / "docs" / "reliability.md"
SUITE = ROOT / "tests" / "reliability"
BEGIN = "<!-- scorecard: begin; written by scripts/reliability.py -->"
END = "<!-- scorecard: end -->"
TIERS = ("pr", "nightly")
# Files that the figures are about, and the share of them that may differ: a hundred commits change three quarters of them.
ABOUT = ("orca_cli/storage/*.py", "orca_cli/data/untrusted/**/*.py", "orca_cli/runs/*.py", "orca_cli/launching/*.py",
         "orca_cli/config/compose.py", "orca_cli/config/configuration.py", "orca_cli/config/parts.py",
         "orca_cli/config/setting_checks.py",
         "orca_cli/training/checkpoint.py", "tests/reliability/*.py")  # fmt: skip
TOLERANCE = 0.25
SCHEMA = 3
LONGEST = ("test_engines.py", "test_signals.py", "test_sweeps.py")
# Targets that several tests reach together.
WHOLE_TARGETS = {
    "examples of properties / held": 40_000,
    "bad configurations refused with a clear error": 2_000,
    "signals: saved and resumed exactly": 175,
    "sweeps with a failing job / no other job lost": 72,
    "sweeps stopped and typed again / none lost, none twice": 30,
}
# Text of a line of the first table -> beginnings of the names of the figures that the line adds up.
HEADLINES = {
    "runs killed at random points, then rerun: same bits as an uninterrupted run": (
        "kills / runs that ended with the same bits",
    ),
    "sweeps stopped, then rerun: no job lost, no job run twice": (
        "sweeps stopped and typed again",
    ),
    "sweeps with a crashing job: all other jobs completed": ("sweeps with a failing job",),
    "power failures: every state the disk may be in is readable": (
        "states of a disk after a power failure",
    ),
    "full disks: a clear error, then an exact resume": ("full disks",),
    "failing system calls: nothing corrupted, nothing lost": ("system-call faults",),
    "flipped bits and other damage to checkpoints: detected": (
        "flipped bits in checkpoints",
        "other damage to",
    ),
    "invalid settings: refused with a clear error": ("bad configurations refused",),
    "hostile files: nothing executed, nothing leaked": ("hostile files",),
    "randomly changed files: read, or a clear error": ("fuzz inputs",),
}
Outcomes = dict[str, bool]  # name of a test -> whether it passed


def run(tier: str, commands: list[list[str]]) -> tuple[int, list[dict[str, Any]], Outcomes, float]:
    """Run pytest with each list of arguments; return the worst exit code, the figures, the outcomes and the seconds."""
    with tempfile.TemporaryDirectory(prefix="orca-reliability-") as folder:
        figures, record = Path(folder) / "figures", Path(folder) / "outcomes"
        variables = os.environ | {"ORCA_TIER": tier, "ORCA_SCORECARD": str(figures)}
        code = 0
        results: Outcomes = {}
        start = time.monotonic()
        for words in commands:
            command = [sys.executable, "-m", "pytest", *words, f"--junit-xml={record}"]
            code = max(code, subprocess.run(command, cwd=ROOT, env=variables).returncode)
            results |= outcomes(record)
        seconds = time.monotonic() - start
        lines = figures.read_text().splitlines() if figures.exists() else []
        return code, [json.loads(line) for line in lines], results, seconds


def commands(arguments: argparse.Namespace) -> list[list[str]]:
    """Return the lists of arguments with which pytest is called."""
    # Tests of one file share counts and references, so a file stays in one process; the longest files come first.
    shared = (
        ["-n", str(arguments.workers), "--dist", "loadfile", "--no-loadscope-reorder"]
        if arguments.workers > 1
        else []
    )
    files = sorted(SUITE.glob("test_*.py"), key=lambda path: (path.name not in LONGEST, path.name))
    faults = [
        *(str(path.relative_to(ROOT)) for path in files),
        "-m",
        "not gpu and not wheel",
        *shared,
    ]
    properties = [
        "tests",
        "--ignore=tests/reliability",
        "-m",
        "hypothesis and not gpu and not wheel",
        *shared,
    ]
    if (
        arguments.words or arguments.tier == "pr"
    ):  # the ordinary tests check the properties, with the same few examples
        return [[*faults, *arguments.words]]
    return [faults, properties]


def outcomes(path: Path) -> Outcomes:
    """Return for each test whether it passed, by pytest's record; skipped tests are left out."""
    if not path.exists():
        return {}
    import xml.etree.ElementTree as ElementTree

    passed = {}
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        if case.find("skipped") is None:
            file = case.get("classname", "").replace(".", "/")
            passed[f"{file}.py::{case.get('name')}"] = (
                case.find("failure") is None and case.find("error") is None
            )
    return passed


def code() -> dict[str, str]:
    """Return path -> digest of the files that the figures are about."""
    files = sorted({file for pattern in ABOUT for file in ROOT.glob(pattern)})
    return {
        str(file.relative_to(ROOT)): hashlib.sha256(file.read_bytes()).hexdigest()[:8]
        for file in files
    }


def stale(record: dict[str, Any], now: dict[str, str]) -> str:
    """Return why a report is too old for the present code; empty while it is not."""
    used = {outcome["attempt"] for outcome in record["tests"].values() if outcome["figures"]}
    counted = [record["attempts"][attempt].get("code", {}) for attempt in used]
    files = now.keys() | {path for attempt in counted for path in attempt}
    changed = sorted(
        path for path in files if any(attempt.get(path) != now.get(path) for attempt in counted)
    )
    if len(changed) <= TOLERANCE * len(files):
        return ""
    return (
        f"{len(changed)} of the {len(files)} files that the figures of {PAGE.name} are about have changed since the figures "
        f"were counted ({', '.join(changed[:5])}, ...): run `python scripts/reliability.py` and commit the files that it writes"
    )


def new_record(
    tier: str, about: dict[str, str], lines: list[dict[str, Any]], results: Outcomes, seconds: float
) -> dict[str, Any]:
    """Return the record of one call: the code it is about, and each test's outcome and figures."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    attempt = {"tier": tier, "date": time.strftime("%Y-%m-%d"), "commit": commit or None, "seconds": round(seconds),
               "code": about}  # fmt: skip
    tests: dict[str, Any] = {
        test: {"attempt": 0, "passed": passed, "figures": []} for test, passed in results.items()
    }
    for line in lines:
        # A skipped test reports which figure it could not count.
        outcome = tests.setdefault(line["test"], {"attempt": 0, "passed": True, "figures": []})
        outcome["figures"].append(
            {
                key: value
                for key, value in line.items()
                if key not in ("test", "tier") and value != ""
            }
        )
    machine = {
        "processors": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
    }
    return {"schema": SCHEMA, "machine": machine, "attempts": [attempt], "tests": tests}


def merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Return a report in which tests that were run again have their new outcome, and other tests their old outcome."""
    if old.get("schema") != SCHEMA:
        return new
    before = len(old["attempts"])
    again = {
        test: outcome | {"attempt": outcome["attempt"] + before}
        for test, outcome in new["tests"].items()
    }
    return new | {"attempts": old["attempts"] + new["attempts"], "tests": old["tests"] | again}


@dataclass
class Figure:
    """A row of the table.

    Args:
        cases, passed, target: numbers of cases, summed over all tests that count the figure.
        notes: facts that a reader has to know.
        not_run: reasons why parts of the figure could not be counted.
        failed: whether a test that counts the figure failed.
        tiers: tiers of the tests that count the figure.
    """

    cases: int = 0
    passed: int = 0
    target: int = 0
    notes: list[str] = field(default_factory=list)
    not_run: list[str] = field(default_factory=list)
    failed: bool = False
    tiers: set[str] = field(default_factory=set)

    @property
    def state(self) -> str:
        """Return passed, failed or not run; for a figure that was run in part, this part decides."""
        if self.failed or self.passed < self.cases:
            return "failed"
        return "passed" if self.cases else "not run"


def figures(record: dict[str, Any]) -> dict[str, Figure]:
    """Return the rows of the table, by name."""
    rows: dict[str, Figure] = {}
    for outcome in record["tests"].values():
        for line in outcome["figures"]:
            row = rows.setdefault(line["figure"], Figure())
            row.failed |= not outcome["passed"]
            row.tiers.add(record["attempts"][outcome["attempt"]]["tier"])
            row.not_run += [line["not_run"]] if "not_run" in line else []
            row.notes += [line["note"]] if "note" in line else []
            row.cases += line.get("cases", 0)
            row.passed += line.get("passed", 0)
            row.target += line.get("target", 0)
    for name in WHOLE_TARGETS.keys() & rows.keys():
        rows[name].target = WHOLE_TARGETS[name]
    return dict(sorted(rows.items()))


def table(record: dict[str, Any], *, failed_only: bool = False) -> str:
    """Return the figures as Markdown: all figures, or only the figures that did not pass."""
    files = {test.split("::")[0] for test in record["tests"]}
    never = sorted(
        path.name
        for path in SUITE.glob("test_*.py")
        if f"tests/reliability/{path.name}" not in files
    )
    last, machine = record["attempts"][-1], record["machine"]
    rows = figures(record)
    shown = {name: row for name, row in rows.items() if not failed_only or row.state != "passed"}
    lines = [
        f"Counted on {last['date']} at commit `{(last['commit'] or 'unknown')[:7]}`, "
        f"tier `{last['tier']}`, {machine['processors']} cores, Python {machine['python']}; "
        f"{len(record['tests']):,} tests in all."
        + (" The target is the number of cases that the nightly tier has to pass." if shown else "")
        + (f" Never run: {', '.join(never)}." if never else "")
        + (
            f" {len(rows) - len(shown)} of {len(rows)} figures passed; these did not:"
            if failed_only and shown
            else ""
        ),
        "",
        "| figure | passed / run | target | state | |",
        "| :-- | --: | --: | :-- | :-- |",
    ]
    for name, row in shown.items():
        done = f"{row.passed:,} / {row.cases:,}" if row.cases else "-"
        words = [*row.notes[-1:], *(f"not run: {reason}" for reason in row.not_run[:1])]
        if row.tiers != {"nightly"}:
            words.append("pr tier" if row.tiers == {"pr"} else "in part of the pr tier")
        cells = (name, done, f"{row.target:,}" if row.target else "-", row.state, "; ".join(words))
        lines.append(
            "| " + " | ".join(cell.replace("|", r"\|").replace("\n", " ") for cell in cells) + " |"
        )
    if not shown:
        lines = [f"{lines[0]} All {len(rows)} figures passed."]
    failed = [test for test, outcome in record["tests"].items() if not outcome["passed"]]
    if failed:
        lines += ["", f"{len(failed)} tests failed: {', '.join(failed)}."]
    return "\n".join(lines)


def headlines(record: dict[str, Any]) -> str:
    """Return the first table, of a few lines, as Markdown."""
    rows = figures(record)
    lines = ["| injected faults, and the required outcome | passed / run |", "| :-- | --: |"]
    for text, beginnings in HEADLINES.items():
        matching = [row for name, row in rows.items() if name.startswith(beginnings)]
        states = {row.state for row in matching} - {"passed"} or (
            {"passed"} if matching else {"not run"}
        )
        done = f"{sum(row.passed for row in matching):,} / {sum(row.cases for row in matching):,}"
        lines.append(
            f"| {text} | {done if states == {'passed'} else ', '.join([done, *sorted(states)])} |"
        )
    return "\n".join(lines)


def scorecard(record: dict[str, Any]) -> str:
    """Return the text between the markers of the page."""
    return f"{headlines(record)}\n\n{table(record, failed_only=True)}"


def publish(record: dict[str, Any]) -> None:
    """Write the report, with a line per test, and the tables between the markers of the page."""
    REPORT.parent.mkdir(exist_ok=True)
    head = [
        f"{json.dumps(key)}: {json.dumps(value)}" for key, value in record.items() if key != "tests"
    ]
    tests = [
        f"{json.dumps(test)}: {json.dumps(record['tests'][test])}"
        for test in sorted(record["tests"])
    ]
    REPORT.write_text(
        "{\n" + ",\n".join([*head, '"tests": {\n' + ",\n".join(tests) + "\n}"]) + "\n}\n"
    )
    text = PAGE.read_text()
    if BEGIN not in text or END not in text:
        raise SystemExit(f"{PAGE}: the markers of the scorecard are missing")
    front, rest = text.split(BEGIN, 1)
    _, tail = rest.split(END, 1)
    PAGE.write_text(f"{front}{BEGIN}\n\n{scorecard(record)}\n\n{END}{tail}")


def main() -> int:
    """Run the suite, or rewrite the page, as the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], epilog=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument(
        "--tier", choices=TIERS, default="pr", help="tier, which decides the number of cases"
    )
    parser.add_argument(
        "--dry", action="store_true", help="run and print the figures, but publish nothing"
    )
    parser.add_argument(
        "--table",
        action="store_true",
        help="run no tests; rewrite the page from the last report, and print all figures",
    )
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes that share the tests"
    )
    parser.add_argument("words", nargs="*", help="further arguments for pytest, after --")
    arguments = parser.parse_args()
    if arguments.table:
        publish(json.loads(REPORT.read_text()))
        print(table(json.loads(REPORT.read_text())))
        return 0
    about = code()  # before the tests: an edit made meanwhile makes the report older, not newer
    exit_code, lines, results, seconds = run(arguments.tier, commands(arguments))
    record = new_record(arguments.tier, about, lines, results, seconds)
    if not arguments.dry and arguments.words:
        record = merged(json.loads(REPORT.read_text()) if REPORT.exists() else {}, record)
    if arguments.dry:
        print(table(record))
    else:
        publish(record)
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
