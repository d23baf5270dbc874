"""A body of any supported family: the checkpoint's config.json names the family."""

import functools
import importlib
import pkgutil
from types import ModuleType
from typing import Annotated, Any

from annotated_types import Ge

from orca_cli.config import parts
from orca_cli.config.ranges import Count
from orca_cli.models import bodies, checkpoints
from orca_cli.models.bodies.base import Body

check_settings = checkpoints.check_name  # before anything is read


def load(
    checkpoint: Annotated[
        str, "id on the Hugging Face hub, or a local folder; ID@COMMIT pins a commit"
    ],
    max_source_tokens: Annotated[
        Annotated[int, Ge(3)] | None,
        "maximum number of tokens of a source text; null: the default of the checkpoint's family",
    ] = None,
    max_tokens: Annotated[
        Count | None,
        "maximum number of tokens of a sample; null: the default of the checkpoint's family; "
        "some families do not have this setting",
    ] = None,
) -> Body:
    """Load a checkpoint from a hub id or a local folder with the code for its family.

    Raises ConfigError if a setting is not None and that code does not have it.
    """
    modules = families()
    family = modules[checkpoints.family(checkpoint, tuple(modules))]
    settings: dict[str, Any] = {"checkpoint": checkpoint}
    # Only settings that are not None: a family keeps its own defaults for the others.
    if max_source_tokens is not None:
        settings["max_source_tokens"] = max_source_tokens
    if max_tokens is not None:
        settings["max_tokens"] = max_tokens
    # A family without max_tokens has no such parameter; the error names the setting.
    parts.bind(family.load, settings, "body")
    body: Body = family.load(**settings)
    return body


@functools.cache
def families() -> dict[str, ModuleType]:
    """Return the module of each family: modules of this package with `CLASSES` and `load`."""
    modules = {}
    module_names = [module.name for module in pkgutil.iter_modules(bodies.__path__)]
    # Sorted, so that the order of the families does not depend on the file system.
    for module_name in sorted(module_names):
        # This module serves all families.
        if module_name == "auto":
            continue
        module = importlib.import_module(f"{bodies.__name__}.{module_name}")
        # A module without CLASSES, such as `base`, is not a family.
        for family in getattr(module, "CLASSES", ()):
            modules[family] = module
    return modules
