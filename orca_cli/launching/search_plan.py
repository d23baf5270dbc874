"""What a search does, from what was typed: its trials' settings, its name, and where it keeps them."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orca_cli.config import configuration, variants
from orca_cli.config import search_space as spaces
from orca_cli.config.configuration import key_of
from orca_cli.config.schema import Tune
from orca_cli.config.search_space import Plain, Space
from orca_cli.exceptions import ConfigError
from orca_cli.launching.search import FOLDER
from orca_cli.runs.settings import as_typed

if TYPE_CHECKING:  # imports Hydra
    from orca_cli.config.compose import Session

_SHORT = 8
# Settings of every trial: it is judged only on validation data that it did not train on. Its weights are not kept, since those
# of twenty trials can fill a disk.
_CLOSED = {
    "test": False,
    "baselines": "none",
    "train.refit": False,
    "train.validate_on": "validation",
    "keep_weights": False,
}
_NOT_OF_TRIALS = ("seed", "tune", "study", *_CLOSED)


@dataclass(frozen=True)
class Plan:
    """One search.

    Args:
        name: the same whenever the same is typed, whatever the number of trials.
        arm: the metric of the trials.
        space, tune: of the search.
        typed: overrides of all trials that were typed; key -> override.
        fixed: settings of the trials that draw, and of the run that follows.
        folder: of the search.
        before: the settings (`hparams`) that the trials start from, as they are written.
        run: task and body, which the settings found are for.
    """

    name: str
    arm: str
    space: Space
    tune: Tune
    typed: dict[str, str]
    fixed: dict[str, Plain]
    folder: Path
    before: dict[str, Any]
    run: str

    def overrides(self, settings: Mapping[str, Plain] | None, seed: int) -> list[str]:
        """Return the overrides of one seed of a trial; `settings` is None for the settings as they are."""
        drawn = {} if settings is None else self.run_settings(settings)
        runs = configuration.quoted((self.folder / "runs").absolute())
        trial_overrides = _as_overrides(_CLOSED | drawn | {"seed": seed})
        return list((self.typed | trial_overrides | {"paths.runs": f"paths.runs={runs}"}).values())

    def run_settings(self, settings: Mapping[str, Plain]) -> dict[str, Plain]:
        """Return the settings that a run needs to train as a trial did."""
        return self.fixed | dict(settings)

    @property
    def seeds(self) -> range:
        """Return the seeds of every trial."""
        return range(self.tune.seed, self.tune.seed + self.tune.seeds)


def make(session: Session, overrides: Sequence[str], extra: Path | None) -> list[Plan]:
    """Return the searches that overrides ask for: one, or with tune.per_arm one for each metric that is typed.

    Args:
        session: composes.
        overrides: as typed; `metric` may be several words with commas.
        extra: the user's own folder of settings.

    Raises:
        ConfigError: a setting, the space, or a value in it is wrong.
    """
    typed = {key_of(text): text for text in overrides}
    metrics = typed.get("metric", "").partition("=")[2].split(",")
    plans = [_plan(session, typed | ({"metric": f"metric={metric}"} if metric else {}), extra) for metric in metrics]
    if len(plans) > 1 and not plans[0].tune.per_arm:
        hint = "add tune.per_arm=true for a search each, or leave it out: the search is without alignment"
        raise ConfigError("names several metrics", where=typed["metric"], hint=hint)
    return plans


def _plan(session: Session, typed: dict[str, str], extra: Path | None) -> Plan:
    job = session.compose(list(typed.values()))
    tune = job.config.tune
    space = spaces.find(tune.space, extra)
    for key in space.params:
        if key in typed:
            hint = f"leave it out, or take {key} out of the space"
            raise ConfigError(f"is searched by space={space.name}", where=typed[key], hint=hint)
        if key.startswith(("align.", "metric.")) and not tune.per_arm:
            what = f"{key} has no effect without alignment"
            raise ConfigError(what, where=f"space={space.name}", hint="add tune.per_arm=true")
    if job.config.train.refit is True:
        what = "leaves no validation samples to judge by"
        raise ConfigError(what, where="train.refit=true", hint="leave it out: the run after the search decides it")
    # Without alignment nothing depends on its settings; so all arms share the search.
    left_out = ("metric", "metric.", "align.") if not tune.per_arm else ()
    kept = {
        key: text
        for key, text in typed.items()
        if key not in (*_NOT_OF_TRIALS, "paths.runs") and not key.startswith(("tune.", "hydra", *left_out))
    }
    if not tune.per_arm:
        kept |= _as_overrides(space.baseline)
    fixed = {key: value for key, value in space.fixed.items() if key not in typed}
    names = job.choices
    run = f"{names['task']}-{names['body']}"
    arm = names["metric"] if tune.per_arm else str(space.baseline.get("metric", names["metric"]))
    # The settings that the job has: those typed by name, else those of its task and body.
    name = typed.get("hparams", "").partition("=")[2].strip("'\"") or f"{job.config.protocol}/{run}"
    known = variants.variants("hparams", extra)
    before = known[name].settings if name in known else {}
    plan = Plan("", arm, space, tune, kept, fixed, Path(), before, run)
    plain = session.compose(plan.overrides(None, tune.seed))
    columns = [[(key, value) for value in space.ends(key)] for key in space.params]
    first = {key: space.ends(key)[0] for key in space.params}
    try:  # so that a wrong value is refused before the first trial
        for together in itertools.zip_longest(*columns):
            session.compose(plan.overrides(first | dict(pair for pair in together if pair is not None), 0))
    except ConfigError as error:
        raise ConfigError(error.what, where=f"space={space.name}: {error.where}", hint=error.hint) from error
    rules = {key: getattr(tune, key) for key in ("sampler", "seeds", "seed", "reduction", "rungs")}
    parts = [plain.identity.settings, space.record(), fixed, rules]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    name = f"{run}-{arm}-{digest[:_SHORT]}"
    return replace(plan, name=name, folder=Path(job.config.paths.runs or "") / FOLDER / name)


def _as_overrides(settings: Mapping[str, Any]) -> dict[str, str]:
    return {key: f"{key}={as_typed(value)}" for key, value in settings.items()}


def without(overrides: Iterable[str], *keys: str) -> list[str]:
    """Return overrides without those of some keys, and of what is below them."""
    below = tuple(f"{key}." for key in keys)
    return [text for text in overrides if key_of(text) not in keys and not key_of(text).startswith(below)]


def applied(overrides: Sequence[str], plan: Plan, settings: Mapping[str, Plain]) -> list[str]:
    """Return overrides of a run with the settings that its search found; what is typed wins."""
    typed = {key_of(text): text for text in overrides}
    return list((_as_overrides(plan.run_settings(settings)) | typed).values())
