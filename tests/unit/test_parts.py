import pytest
import torch

from orca_cli import parts
from orca_cli.exceptions import ConfigError, UnsafeError


def test_builds_nested_nodes_and_passes_what_is_accepted():
    node = {
        "_target_": "torch.nn.TransformerEncoder",
        "encoder_layer": {"_target_": "torch.nn.TransformerEncoderLayer", "d_model": 4, "nhead": 1},
    }
    built = parts.build(node, "body", num_layers=2, unknown_to_it="ignored")
    assert isinstance(built, torch.nn.TransformerEncoder)
    assert len(built.layers) == 2


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "subprocess.Popen",
        "orca_cli.storage.remove",
        "orca_cli.tasks.digits.np.save",
        "torch.hub.load",
        "torch.load",
        "torch.nn.Module.__init__.__globals__",
        "orca_cli.metrics.otdd.torch.load",
    ],
)
def test_code_outside_the_parts_is_never_reached(target):
    with pytest.raises((UnsafeError, ConfigError)):
        parts.build({"_target_": target}, "task")


def test_names_imported_into_a_part_are_not_parts():
    with pytest.raises(UnsafeError, match="not defined there"):
        parts.build({"_target_": "orca_cli.tasks.digits.TaskData"}, "task")


def test_unknown_argument_is_told_with_the_closest_one():
    with pytest.raises(ConfigError, match=r"task\.loss\.label_smoothin: .* did you mean 'label_smoothing'\?"):
        parts.check({"_target_": "torch.nn.CrossEntropyLoss", "label_smoothin": 0.1}, "task.loss")


def test_missing_argument_is_told():
    with pytest.raises(ConfigError, match=r"body\.out_features: a value is needed"):
        parts.check({"_target_": "torch.nn.Linear", "in_features": 3}, "body")


def test_unknown_name_is_told_with_the_closest_one():
    with pytest.raises(ConfigError, match="has no 'OTD'"):
        parts.check({"_target_": "orca_cli.metrics.otdd.OTD"}, "metric")
