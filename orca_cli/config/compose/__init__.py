"""Everything that touches Hydra and OmegaConf: compose a configuration, check it, expand a sweep.

From here on a configuration is a plain dataclass (`schema.Config`) with plain dictionaries for the parts.
"""

from orca_cli.config.compose.composed import Composed, Sweep, to_yaml
from orca_cli.config.compose.sessions import Session, session

__all__ = ["Composed", "Session", "Sweep", "session", "to_yaml"]
