"""Run the reliability suite, and publish its figures: reports/reliability.json and the scorecard of the README.

    python scripts/reliability.py                       the pr tier, some minutes
    python scripts/reliability.py --tier nightly        all cases
    python scripts/reliability.py -- -k damage          a part of it; figures of other tests are kept from the last report
    python scripts/reliability.py --table               write the README's table anew from the last report
    python scripts/reliability.py --defects             25 seeded defects, each of which the tests have to notice
    python scripts/reliability.py --tier nightly --properties       all examples of the properties

A figure is what a test counted, never what was typed. A figure whose premise did not hold on this machine is "not run", and one
whose test failed before it counted is "failed"; neither is ever shown as passed. Exit code: that of pytest.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
REPORT = ROOT / "reports" / "reliability.json"
README = ROOT / "README.md"
SUITE = ROOT / "tests" / "reliability"
BEGIN = "<!-- scorecard: begin; written by scripts/reliability.py -->"
END = "<!-- scorecard: end -->"
TIERS = ("pr", "nightly")
Outcomes = dict[str, bool]  # name of a test -> whether it passed


def run(tier: str, commands: list[list[str]]) -> tuple[int, list[dict[str, Any]], Outcomes, float]:
    """Run pytest once a command; returns the worst exit code, the figures, what became of each test, and seconds."""
    with tempfile.TemporaryDirectory(prefix="orca-reliability-") as folder:
        figures, record = Path(folder) / "figures", Path(folder) / "outcomes"
        variables = os.environ | {
            "ORCA_TIER": tier,
            "ORCA_SCORECARD": str(figures),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        }
        code, found = 0, {}
        start = time.monotonic()
        for words in commands:
            command = [sys.executable, "-m", "pytest", *words, f"--junit-xml={record}"]
            code = max(code, subprocess.run(command, cwd=ROOT, env=variables).returncode)
            found |= outcomes(record)
        seconds = time.monotonic() - start
        lines = figures.read_text().splitlines() if figures.exists() else []
        return code, [json.loads(line) for line in lines], found, seconds


def commands(given: argparse.Namespace) -> list[list[str]]:
    """Return what to call pytest with."""
    # Tests of one file share what they count, so a file stays in one process.
    shared = ["-n", str(given.workers), "--dist", "loadfile"] if given.workers > 1 else []
    faults = ["tests/reliability", "-m", "not gpu and not wheel", *shared]
    properties = ["tests", "--ignore=tests/reliability", "-m", "hypothesis and not gpu and not wheel", *shared]
    if given.defects:
        return [[*faults, "-k", "test_mutations", *given.words]]
    if given.properties:
        return [[*properties, *given.words]]
    if given.words or given.tier == "pr":  # the plain tests try the properties, with the same few examples
        return [[*faults, *given.words]]
    return [faults, properties]


def outcomes(path: Path) -> Outcomes:
    """Return by test whether pytest's record says that it passed; skipped ones are left out."""
    if not path.exists():
        return {}
    import xml.etree.ElementTree as ElementTree

    found = {}
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        if case.find("skipped") is None:
            file = case.get("classname", "").replace(".", "/")
            found[f"{file}.py::{case.get('name')}"] = case.find("failure") is None and case.find("error") is None
    return found


def summed(lines: list[dict[str, Any]], found: Outcomes) -> dict[str, dict[str, Any]]:
    """Return figure -> cases, passed, target, notes, what was not run, and whether one of its tests failed."""
    figures: dict[str, dict[str, Any]] = {}
    empty = {"cases": 0, "passed": 0, "target": 0, "notes": [], "not_run": [], "failed": False, "files": []}
    for line in lines:
        figure = figures.setdefault(line["figure"], {key: _copy(value) for key, value in empty.items()})
        figure["failed"] |= not found.get(line["test"], True)
        file = line["test"].split("::")[0]
        if file not in figure["files"]:
            figure["files"].append(file)
        if "not_run" in line:
            figure["not_run"].append(line["not_run"])
            continue
        for key in ("cases", "passed", "target"):
            figure[key] += line[key]
        if line.get("note"):
            figure["notes"].append(line["note"])
    return figures


def _copy(value: Any) -> Any:
    return list(value) if isinstance(value, list) else value


def report(tier: str, lines: list[dict[str, Any]], found: Outcomes, seconds: float) -> dict[str, Any]:
    """Return the record that is published: figures, and when, on which state of the program, each file was run."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    taken = {"tier": tier, "date": time.strftime("%Y-%m-%d"), "commit": commit or None}
    files: dict[str, dict[str, Any]] = {}
    for test, passed in found.items():
        file = files.setdefault(test.split("::")[0], taken | {"tests": 0, "failed": []})
        file["tests"] += 1
        if not passed:
            file["failed"].append(test)
    return {
        "schema": 2,
        "tier": tier,
        "date": taken["date"],
        "machine": {"processors": os.cpu_count(), "system": platform.system(), "python": platform.python_version()},
        "seconds": round(seconds),
        "files": dict(sorted(files.items())),
        "figures": {name: figure | {"tier": tier} for name, figure in sorted(summed(lines, found).items())},
    }


def merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Return a report of a part of the suite with the figures of the other files as they were; they say of which tier."""
    both = {key: dict(sorted((old.get(key, {}) | new[key]).items())) for key in ("files", "figures")}
    return new | both | {"seconds": old.get("seconds", 0) + new["seconds"]}


def state(figure: dict[str, Any]) -> str:
    """Return passed, failed or not run. What was run in part is what the run part says."""
    if figure["failed"] or figure["passed"] < figure["cases"]:
        return "failed"
    return "passed" if figure["cases"] else "not run"


def table(record: dict[str, Any]) -> str:
    """Return the scorecard as Markdown."""
    never = sorted(
        path.name for path in SUITE.glob("test_*.py") if f"tests/reliability/{path.name}" not in record["files"]
    )
    tests = sum(file["tests"] for file in record["files"].values())
    lines = [
        f"Tier of the last run: `{record['tier']}`, {record['date']}, {record['machine']['processors']} cores, Python "
        f"{record['machine']['python']}; {tests:,} tests. The nightly tier is what the target counts."
        + (f" Never run: {', '.join(never)}." if never else ""),
        "",
        "| figure | passed / run | target | state | |",
        "| :-- | --: | --: | :-- | :-- |",
    ]
    for name, figure in record["figures"].items():
        known = state(figure)
        done = f"{figure['passed']:,} / {figure['cases']:,}" if figure["cases"] else "-"
        words = [*figure["notes"][-1:], *(f"not run: {reason}" for reason in figure["not_run"][:1])]
        if figure.get("tier", record["tier"]) != record["tier"]:
            words.append(f"{figure['tier']} tier")
        cells = (name, done, f"{figure['target']:,}" if figure["target"] else "-", known, "; ".join(words))
        lines.append("| " + " | ".join(cell.replace("|", r"\|").replace("\n", " ") for cell in cells) + " |")
    failed = [test for file in record["files"].values() for test in file["failed"]]
    if failed:
        lines += ["", f"{len(failed)} tests failed: {', '.join(failed)}."]
    return "\n".join(lines)


def publish(record: dict[str, Any]) -> None:
    """Write the report, and the table between the README's markers."""
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    text = README.read_text()
    if BEGIN not in text or END not in text:
        raise SystemExit(f"{README}: the markers of the scorecard are missing")
    head, rest = text.split(BEGIN, 1)
    _, tail = rest.split(END, 1)
    README.write_text(f"{head}{BEGIN}\n\n{table(record)}\n\n{END}{tail}")


def main() -> int:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], epilog=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--tier", choices=TIERS, default="pr", help="how many cases")
    parser.add_argument("--dry", action="store_true", help="run, and print the table without publishing it")
    parser.add_argument("--table", action="store_true", help="run nothing; write the table of the last report anew")
    parser.add_argument("--defects", action="store_true", help="only the seeded defects, all 25")
    parser.add_argument("--properties", action="store_true", help="only the properties, of all parts of the program")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes that share the tests")
    parser.add_argument("words", nargs="*", help="more for pytest, after --")
    given = parser.parse_args()
    old = json.loads(REPORT.read_text()) if REPORT.exists() else {}
    if given.table:
        publish(old)
        return 0
    tier = "nightly" if given.defects else given.tier
    code, lines, found, seconds = run(tier, commands(given))
    record = report(tier, lines, found, seconds)
    if given.words or given.defects or given.properties:
        record = merged(old, record)
    if given.dry:
        print(table(record))
    else:
        publish(record)
    return code


if __name__ == "__main__":
    sys.exit(main())
