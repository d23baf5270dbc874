"""Checkpoints of bodies: where they are, whether they may be read, and the models in them."""

# ruff: noqa: F401 - bodies and commands import from `orca_cli.models.checkpoints`
from orca_cli.models.checkpoints.config_file import KEY, check_family, check_modest, shareable_config
from orca_cli.models.checkpoints.loading import architecture_only, family, load_model, without_pooler
from orca_cli.models.checkpoints.packages import PACKAGED, Packaged, packaged_folder
from orca_cli.models.checkpoints.resolution import check_name, digest, preparation_digest, resolve, revision
from orca_cli.models.checkpoints.wheels import take_out
