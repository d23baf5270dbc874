"""Checkpoints of bodies: where they are, whether they may be read, and the models in them."""

from orca_cli.models.checkpoints.config_file import CONFIG, KEY, check_family, check_modest, shareable_config
from orca_cli.models.checkpoints.loading import architecture_only, family, load_model, without_pooler
from orca_cli.models.checkpoints.packages import PACKAGED, Packaged, packaged_folder
from orca_cli.models.checkpoints.resolution import (
    check_name,
    digest,
    preparation_digest,
    resolve,
    revision,
    weight_files,
)

__all__ = [
    "CONFIG",
    "KEY",
    "PACKAGED",
    "Packaged",
    "architecture_only",
    "check_family",
    "check_modest",
    "check_name",
    "digest",
    "family",
    "load_model",
    "packaged_folder",
    "preparation_digest",
    "resolve",
    "revision",
    "shareable_config",
    "weight_files",
    "without_pooler",
]
