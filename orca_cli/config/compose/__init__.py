"""Everything that touches Hydra and OmegaConf: what comes out is a plain `schema.Config`, with dictionaries for the parts."""

from orca_cli.config.compose.composed import Composed, Sweep, to_yaml
from orca_cli.config.compose.sessions import Session, session

__all__ = ["Composed", "Session", "Sweep", "session", "to_yaml"]
