"""`orca select`: which body suits a task, before any fine-tuning; and, once runs exist, whether that was right."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orca_cli import experiment, parts, signals, terminal
from orca_cli.body_ranking import agreement, records
from orca_cli.body_ranking.entries import Entry, merged, parse
from orca_cli.commands import select_table
from orca_cli.commands.options import add_allow_module, add_config_dir
from orca_cli.configuration import default_folders, key_of
from orca_cli.exceptions import ConfigError, DataError, UsageError
from orca_cli.schema import is_without_effect
from orca_cli.terminal import Result

if TYPE_CHECKING:  # imports Hydra and torch
    from orca_cli.body_ranking.rank import Candidate
    from orca_cli.compose import Composed

METRIC = "metric=otdd"
SEEDS = (0, 1, 2)

EXAMPLES = """\
examples:
  orca select task=digits bodies=minilm,antiberty          ranked by the distance after alignment, three seeds each
  orca select task=digits bodies=minilm,minilm:random      against the same body with random weights
  orca select bodies=minilm,swin_tiny:FOLDER seed=0,1      NAME:CHECKPOINT is body.checkpoint of that body
  orca select task=arrays task.kind=classes task.train=my.npz bodies=bodies.yaml hparams=small
  orca select --against-runs                               of all selections: how well they predicted the runs' errors

bodies.yaml has a line for each body: a name, and its own overrides, such as
  swin: [body=swin_tiny, body.checkpoint=FOLDER, source.path=images.npz, embedder.max_tokens=null]

The distance is divided by what as many fresh points of the body's own source score. The metric is otdd unless another one is
typed. `orca run` with the same settings finds the alignment done. Test data are never read. Repeating the command computes
nothing again; an interrupted one goes on where it was."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.description = "Rank bodies for a task before any fine-tuning: distance after alignment, LogME, linear probe."
    parser.epilog = EXAMPLES
    text = "bodies=NAME,... or bodies=FILE.yaml; seed=0,1,2; settings as in orca run, for all bodies"
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help=text)
    text = "compute nothing: of all selections so far, how well each score predicted the errors of runs"
    parser.add_argument("--against-runs", action="store_true", help=text)
    add_config_dir(parser, "task/x.yaml, body/x.yaml, ...")
    add_allow_module(parser)
    parser.add_argument("-v", "--verbose", action="store_true", help="log more")
    parser.add_argument("-q", "--quiet", action="store_true", help="log warnings only")


def execute(arguments: argparse.Namespace) -> Result:
    """Return the ranking, or how well earlier ones predicted the runs."""
    if arguments.against_runs:
        if arguments.words:
            raise UsageError("takes no settings", where="--against-runs", hint="leave them out, or --against-runs")
        return _against_runs(Path(default_folders()["runs"]))
    typed, bodies, seeds = _split(arguments.words)
    terminal.configure_logging(verbose=arguments.verbose, quiet=arguments.quiet)
    for module in arguments.allow_module:
        parts.allow_module(module)
    from orca_cli.body_ranking.rank import rank

    with signals.deferred(), signals.watched():
        candidates = _candidates(typed, bodies, seeds, arguments.config_dir)
        found = rank(candidates, terminal.LogReporter())
    first = candidates[0].jobs[0]
    overrides = [text for text in typed if not is_without_effect(key_of(text))]
    selection = {
        "task": _task_label(first),
        "data": first.identity.data,
        "overrides": sorted(overrides),
        "metric": first.choices["metric"],
        "error": next(
            ({"name": one.seeds[0].error, "percent": one.seeds[0].percent} for one in found if one.seeds), None
        ),
        "bodies": [one.record() for one in found],
    }
    root = Path(first.config.paths.runs or "")
    records.add(root, selection)
    errors = records.errors_of(root, [one.settings for one in found])
    random = [one.label for one in candidates if not parts.build(one.jobs[0].config.finetune, "finetune").pretrained]
    own = {entry.label: entry.overrides for entry in bodies}
    command = _command(typed, own[found[0].label], seeds)
    record = {"schema": 1, **selection, **_with_runs(selection, errors), "next": command}
    return Result(record, select_table.of_ranking(record, found, random))


def _split(words: Sequence[str]) -> tuple[list[str], list[Entry], list[int]]:
    """Return the settings that all bodies share, the bodies and the seeds."""
    taken = {"bodies": "", "seed": ",".join(map(str, SEEDS))}
    others = []
    for word in words:
        key, separator, value = word.partition("=")
        if not separator:
            raise UsageError(
                f"'{word}' is not a setting", hint="settings are KEY=VALUE, such as bodies=minilm,antiberty"
            )
        if key in taken:
            taken[key] = value
        elif key in ("body", "study"):
            raise UsageError("does not go with select", where=word, hint="bodies=NAME,... names the bodies")
        else:
            others.append(word)
    if not taken["bodies"]:
        raise UsageError("no bodies are named", where="bodies", hint="such as bodies=minilm,antiberty; orca list body")
    seeds = [text.strip() for text in taken["seed"].strip("[]'\"").split(",")]
    if not all(re.fullmatch(r"\d{1,10}", text) for text in seeds) or len(set(seeds)) < len(seeds):
        raise ConfigError(f"'{taken['seed']}' is not a list of seeds", where="seed", hint="such as seed=0,1,2")
    return merged([METRIC], others), parse(taken["bodies"]), [int(text) for text in seeds]


def _candidates(
    typed: list[str], entries: Sequence[Entry], seeds: Sequence[int], config_dir: Path | None
) -> list[Candidate]:
    """Compose the jobs of all bodies."""
    from orca_cli import compose
    from orca_cli.body_ranking.rank import Candidate

    found = []
    with compose.session(config_dir) as session:
        for entry in entries:
            jobs = [session.compose(merged(typed, entry.overrides, [f"seed={seed}"])) for seed in seeds]
            found.append(Candidate(entry.label, jobs, [experiment.run_name(job) for job in jobs]))
    if len({one.jobs[0].choices["metric"] for one in found}) > 1:
        raise ConfigError("differs between bodies, and distances then have no common scale", where="metric")
    return found


def _task_label(job: Composed) -> str:
    """Return the task's name, with the names of its files where they are typed: own data are all called `arrays`."""
    task = job.config.task
    files = [Path(str(task[key])).stem for key in ("train", "path") if task.get(key) and f"task.{key}" in job.variant]
    return " ".join([job.choices["task"], *files])


def _command(typed: Sequence[str], own: Sequence[str], seeds: Sequence[int]) -> str:
    """Return the command that runs a body with the settings of the selection."""
    words = merged(typed, own)
    if len(seeds) == 1:
        return shlex.join(["orca", "run", *words, f"seed={seeds[0]}"])
    return shlex.join(["orca", "run", "-m", *words, f"seed={','.join(map(str, seeds))}"])


def _with_runs(selection: Mapping[str, Any], errors: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Return the runs' errors of a selection's bodies, and each score's correlation with them."""
    bodies = selection["bodies"]
    means = records.mean_errors(bodies, errors)
    runs = {body["label"]: len(errors.get(body["settings"], ())) for body in bodies}
    found = {
        score: known and vars(known)
        for score in agreement.SCORES
        for known in [agreement.correlation(agreement.paired(bodies, means, score))]
    }
    return {"runs": {label: {"n": runs[label], "error": means.get(label)} for label in runs}, "agreement": found}


def _against_runs(root: Path) -> Result:
    """Return how well each score of all selections predicted the runs that exist."""
    selections = records.read_all(root)
    if not selections:
        raise DataError(
            "no selections are recorded", where=str(root), hint="make one with: orca select bodies=NAME,NAME"
        )
    errors = records.errors_of(root, [body["settings"] for one in selections for body in one["bodies"]])
    tasks = [
        {**{key: one[key] for key in ("task", "data", "overrides")}, **_with_runs(one, errors)} for one in selections
    ]
    found = {}
    for score in agreement.SCORES:
        pairs: dict[str, list[agreement.Pairs]] = {}  # by what makes a task, whatever its settings and metric
        for one in selections:
            means = records.mean_errors(one["bodies"], errors)
            pairs.setdefault(one["data"], []).append(agreement.paired(one["bodies"], means, score))
        known = agreement.pooled(pairs.values())
        found[score] = known and vars(known)
    record = {"schema": 1, "tasks": tasks, "pooled": found}
    return Result(record, select_table.of_agreement(selections, record))
