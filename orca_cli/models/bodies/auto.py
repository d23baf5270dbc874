"""A body of the family that a checkpoint's config.json names, whatever it is."""

import functools
import importlib
import pkgutil
from types import ModuleType
from typing import Annotated

from annotated_types import Ge

from orca_cli.config import parts
from orca_cli.config.ranges import Count
from orca_cli.models import bodies, checkpoints
from orca_cli.models.bodies.base import Body

check_settings = checkpoints.check_name  # before anything is read


def load(
    checkpoint: str,
    max_source_tokens: Annotated[int, Ge(3), "as in the family's own body; null: its default"]
    | None = None,
    max_tokens: Annotated[Count, "as in the family's own body; null: its default"] | None = None,
) -> Body:
    """Load a checkpoint from a hub id or a local folder by the code for its family, which may lack a setting (ConfigError)."""
    modules = families()
    family = modules[checkpoints.family(checkpoint, tuple(modules))]
    settings = {
        "checkpoint": checkpoint,
        "max_source_tokens": max_source_tokens,
        "max_tokens": max_tokens,
    }
    settings = {name: value for name, value in settings.items() if value is not None}
    parts.bind(family.load, settings, "body")
    body: Body = family.load(**settings)
    return body


@functools.cache
def families() -> dict[str, ModuleType]:
    """Return the module of each family: those in this package that have `CLASSES` and `load`."""
    names = sorted(module.name for module in pkgutil.iter_modules(bodies.__path__))
    modules = [
        importlib.import_module(f"{bodies.__name__}.{name}") for name in names if name != "auto"
    ]
    return {family: module for module in modules for family in getattr(module, "CLASSES", ())}
