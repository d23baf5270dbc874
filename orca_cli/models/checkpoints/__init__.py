"""Checkpoints of bodies: where they are, whether they may be read, and the models in them."""

# ruff: noqa: F401 - bodies and commands import from `orca_cli.models.checkpoints`
from orca_cli.models.checkpoints.loading import (
    architecture_only,
    check_family,
    check_modest,
    family,
    load_model,
    read_config,
    shareable_config,
    without_pooler,
)
from orca_cli.models.checkpoints.resolution import (
    KEY,
    PACKAGED,
    Packaged,
    check_name,
    digest,
    packaged_folder,
    preparation_digest,
    resolve,
    revision,
)
from orca_cli.models.checkpoints.wheels import take_out
