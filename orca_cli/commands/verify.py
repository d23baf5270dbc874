"""`orca verify`: every number of a bundle once more; needs neither torch nor the machine that it comes from."""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from pathlib import Path

from rich.text import Text

from orca_cli import storage, terminal
from orca_cli.exceptions import ChecksumError, DataError, OrcaError
from orca_cli.terminal import Result

EXAMPLES = """\
examples:
  orca verify alignment.zip
  orca verify alignment.zip --digest 4ae68d48...    it is also the bundle that a paper names
  orca verify alignment.zip --json                  for other programs

Computed again: the SHA-256 of every file; every test error, from the predictions, by formulas apart from those of the
program; every cell of the table; gains, intervals and p of the comparison. Equal are errors that agree to six digits. Not
computed again, since it takes data that a bundle does not hold: validation errors, the best constant predictor, baselines.

exit codes: 0 all of it agrees; 11 not a bundle, or something could not be computed again; 12 unsafe to unpack;
13 something differs; 21 of a newer program"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.description = "Compute every number of a bundle again, and say what agrees and what does not."
    parser.epilog = EXAMPLES
    parser.add_argument("bundle", type=Path, metavar="FILE", help="what orca pack wrote")
    parser.add_argument("--digest", metavar="SHA256", help="what orca pack printed, or its first digits (8 or more)")
    parser.add_argument("--differences", action="store_true", help="show only what does not agree")


def execute(arguments: argparse.Namespace) -> Result:
    """Return what agrees and what does not."""
    from orca_cli.bundles.verification import AGREES, DIFFERS, UNCHECKED, Check, verify

    with tempfile.TemporaryDirectory(prefix=f"{storage.TEMPORARY}verify-") as folder:
        index, checks = verify(arguments.bundle, Path(folder) / "bundle", terminal.LogReporter())
    if arguments.digest is not None:
        wanted = arguments.digest.lower()
        is_it = len(wanted) >= 8 and index.digest.startswith(wanted)
        text = "is that of --digest" if is_it else f"is {index.digest}, not that of --digest"
        checks.insert(0, Check(AGREES if is_it else DIFFERS, "digest", text))
    counts = Counter(check.verdict for check in checks)
    record = {
        "schema": 1,
        "bundle": str(arguments.bundle),
        "sha256": index.digest,
        "program": index.program,
        "runs": len(index.runs),
        "left_out": dict(index.left_out),
        **{verdict: counts[verdict] for verdict in (AGREES, DIFFERS, UNCHECKED)},
        "checks": [vars(check) for check in checks],
    }
    styles = {AGREES: "green", DIFFERS: "bold red", UNCHECKED: "yellow"}
    rows = [
        [Text(check.verdict, style=styles[check.verdict]), Text(check.what), Text(check.text)]
        for check in checks
        if check.verdict != AGREES or not arguments.differences
    ]
    counted = ", ".join(f"{counts[verdict]} {verdict}" for verdict in (DIFFERS, UNCHECKED) if counts[verdict])
    summary = f"{counts[AGREES]} of {len(checks)} checks agree{counted and f'; {counted}'}; {len(index.runs)} runs"
    left_out = f", {len(index.left_out)} left out when it was packed" if index.left_out else ""
    shown = [*([terminal.table(("", "", ""), rows)] if rows else []), f"{summary}{left_out}", f"digest {index.digest}"]
    failures: list[OrcaError] = []
    if counts[DIFFERS]:
        hint = "do not trust its numbers; ask for the bundle again, or for the runs"
        failures.append(ChecksumError(f"{counts[DIFFERS]} checks differ", where=str(arguments.bundle), hint=hint))
    elif counts[UNCHECKED]:
        what = f"{counts[UNCHECKED]} errors could not be computed again; all else agrees"
        failures.append(DataError(what, where=str(arguments.bundle)))
    return Result(record, shown, failures)
