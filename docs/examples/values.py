"""Value projections, embedder and predictor are trained."""

from typing import Any

from orca_cli.interfaces import Finetune


class Values(Finetune):
    """Train value projections, embedder and predictor."""

    def apply(self, model: Any) -> None:
        """Choose what is trained."""
        model.requires_grad_(True)
        model.body.requires_grad_(False)
        for name in model.body.linear_names("value"):
            model.body.get_submodule(name).requires_grad_(True)
