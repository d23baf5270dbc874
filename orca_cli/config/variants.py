"""What a task's file changes for a protocol (`departures`), and sets for a protocol and a body (`hparams`).

    task:
      departures:
        paper:                     # settings of the task with protocol=paper
          description: ...
          train_on_validation: true
      hparams:
        clean:
          roberta:                 # settings of a run with protocol=clean and body=roberta
            description: ...
            train: {epochs: 25, lr: 1e-4}

The two blocks come last. Each variant has a name that can be typed, such as `hparams=clean/deepsea-roberta`. Files in
conf/hparams and a user's own folders hparams and departures are variants as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orca_cli.config import configuration
from orca_cli.config.configuration import mapping
from orca_cli.exceptions import ConfigError

BLOCKS = ("departures", "hparams")
# Sections that a block `hparams` may set; what is trained on and where results go are not among them.
_SECTIONS = ("align", "augment", "body", "embedder", "finetune", "metric", "predictor", "source", "train")


@dataclass(frozen=True)
class Variant:
    """Settings under a name that can be typed."""

    path: Path  # the file that holds them
    description: str
    settings: dict[str, Any]  # as they are written; with `defaults` where a file of its own picks in other groups


def variants(group: str, extra: Path | None = None) -> dict[str, Variant]:
    """Return name -> choice of a group of conf/, sorted by name; tasks' files hold some of `departures` and `hparams`."""
    named = {
        name: Variant(path, configuration.description(path), configuration.content(path))
        for name, path in configuration.choices(group, extra).items()
    }
    for task, path in configuration.choices("task", extra).items() if group in BLOCKS else ():
        for block, name, text, settings in in_task(task, configuration.content(path), str(path)):
            if block == group and name in named:  # Hydra would take the file
                what = f"the file of task={task} has its own '{name}'"
                raise ConfigError(what, where=str(named[name].path), hint="rename it")
            if block == group:
                named[name] = Variant(path, text, settings)
    return dict(sorted(named.items()))


def in_task(task: str, content: dict[str, Any], where: str) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Yield block, name, description and settings of every variant in the plain content of a task's file."""
    node = content.get("task")
    if not isinstance(node, dict):
        return
    for protocol, settings in mapping(node.get("departures"), f"{where}: departures").items():
        rest = mapping(settings, f"{where}: departures.{protocol}")
        yield "departures", f"{protocol}/{task}", str(rest.pop("description", "")), {"task": rest}
    for protocol, bodies in mapping(node.get("hparams"), f"{where}: hparams").items():
        for body, settings in mapping(bodies, f"{where}: hparams.{protocol}").items():
            rest = mapping(settings, f"{where}: hparams.{protocol}.{body}", ("description", *_SECTIONS))
            yield "hparams", f"{protocol}/{task}-{body}", str(rest.pop("description", "")), rest
