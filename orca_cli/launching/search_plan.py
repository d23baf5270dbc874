"""What a search does, from what was typed: its trials' settings, its name, and where it keeps them."""

from __future__ import annotations

import hashlib
import json
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orca_cli.config import configuration
from orca_cli.config import search_space as spaces
from orca_cli.config.configuration import key_of
from orca_cli.config.ranges import check_value
from orca_cli.config.schema import Tune
from orca_cli.config.search_space import Plain, Space
from orca_cli.exceptions import ConfigError
from orca_cli.launching.search import FOLDER
from orca_cli.runs.settings import as_typed

if TYPE_CHECKING:  # imports Hydra
    from orca_cli.config.compose import Session

RULES: dict[str, Any] = typing.get_type_hints(Tune, include_extras=True)  # name -> annotation
# Settings of every trial: it is judged only on validation data that it did not train on. Its weights are not kept, since those
# of twenty trials can fill a disk.
_CLOSED = {
    "test": False,
    "baselines": "none",
    "train.refit": False,
    "train.validate_on": "validation",
    "keep_weights": False,
}


@dataclass(frozen=True)
class Plan:
    """One search."""

    space: Space  # what is searched
    tune: Tune  # the rules
    typed: dict[str, str]  # overrides of all trials that were typed; key -> override
    fixed: dict[str, Plain]  # settings of the trials that draw, and of the run that follows
    folder: Path  # whose name is the same whenever the same is typed, whatever the number of trials
    before: dict[str, Any]  # the settings (`hparams`) that the trials start from, as they are written
    run: str  # task and body, which the settings found are for

    def overrides(self, settings: Mapping[str, Plain] | None, seed: int) -> list[str]:
        """Return the overrides of one seed of a trial; `settings` is None for the settings as they are."""
        drawn = {} if settings is None else self.fixed | dict(settings)
        runs = configuration.quoted((self.folder / "runs").absolute())
        trial_overrides = _as_overrides(_CLOSED | drawn | {"seed": seed})
        return list((self.typed | trial_overrides | {"paths.runs": f"paths.runs={runs}"}).values())


def make(session: Session, overrides: Sequence[str], extra: Path | None) -> Plan:
    """Return the search that overrides ask for: rules of the search, and settings of a run; `extra` as in `spaces.find`.

    Raises:
        ConfigError: a rule, a setting, the space, or a value in it is wrong.
    """
    typed = {key_of(text): text for text in overrides}
    rules: dict[str, Any] = {key: _read(typed.pop(key)) for key in RULES if key in typed}
    for key, value in rules.items():
        check_value(value, RULES[key], key)
    tune, job = Tune(**rules), session.compose(list(typed.values()))
    space = spaces.find(tune.space, extra)
    for key in (key for key in space.params if key in typed):
        hint = f"leave it out, or take {key} out of the space"
        raise ConfigError(f"is searched by space={space.name}", where=typed[key], hint=hint)
    if job.config.train.refit is True:
        what = "leaves no validation samples to judge by"
        raise ConfigError(what, where="train.refit=true", hint="leave it out: the run after the search decides it")
    # Without alignment nothing depends on its settings; so whatever metric is typed, the search is the same.
    left_out = (*_CLOSED, "paths.runs", "metric")
    kept = {
        key: text for key, text in typed.items() if key not in left_out and not key.startswith(("metric.", "align."))
    }
    kept |= _as_overrides(space.baseline)
    fixed = {key: value for key, value in space.fixed.items() if key not in typed}
    run = f"{job.choices['task']}-{job.choices['body']}"
    # The settings that the job has: those typed by name, else those of its task and body.
    name = typed.get("hparams", "").partition("=")[2].strip("'\"") or f"{job.config.protocol}/{run}"
    known = configuration.variants("hparams", extra)
    before = known[name].settings if name in known else {}
    plan = Plan(space, tune, kept, fixed, Path(), before, run)
    plain = session.compose(plan.overrides(None, tune.seed))
    ends = {key: space.ends(key) for key in space.params}
    try:  # so that a wrong value is refused before the first trial
        for place in range(max(map(len, ends.values()))):
            session.compose(plan.overrides({key: values[place % len(values)] for key, values in ends.items()}, 0))
    except ConfigError as error:
        raise ConfigError(error.what, where=f"space={space.name}: {error.where}", hint=error.hint) from error
    deciding = {key: getattr(tune, key) for key in ("sampler", "seeds", "seed", "reduction", "rungs")}
    parts = [plain.identity.settings, space.record(), fixed, deciding]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    name = f"{run}-{space.baseline.get('metric', job.choices['metric'])}-{digest[:8]}"
    return replace(plan, folder=Path(job.config.paths.runs or "") / FOLDER / name)


def _read(text: str) -> int | str:
    value = text.partition("=")[2].strip("'\"")
    return int(value) if value.removeprefix("-").isdecimal() else value


def _as_overrides(settings: Mapping[str, Any]) -> dict[str, str]:
    return {key: f"{key}={as_typed(value)}" for key, value in settings.items()}
