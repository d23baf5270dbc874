import pytest
import torch

from orca_cli.config import parts
from orca_cli.exceptions import ConfigError, UnsafeError


def test_builds_nested_nodes_and_passes_what_is_accepted():
    node = {
        "_target_": "torch.nn.TransformerEncoder",
        "encoder_layer": {"_target_": "torch.nn.TransformerEncoderLayer", "d_model": 4, "nhead": 1},
    }
    built = parts.build(node, "body", num_layers=2, unknown_to_it="ignored")
    assert isinstance(built, torch.nn.TransformerEncoder)
    assert len(built.layers) == 2


TARGETS = [
    "os.system",
    "builtins.eval",
    "subprocess.Popen",
    "orca_cli.storage.remove",
    "orca_cli.benchmarks.digits.np.save",
]
TARGETS += ["torch.hub.load", "torch.load", "torch.nn.Module.__init__.__globals__", "orca_cli.metrics.otdd.torch.load"]


@pytest.mark.parametrize("target", TARGETS)
def test_code_outside_the_parts_is_never_reached(target):
    with pytest.raises((UnsafeError, ConfigError)):
        parts.build({"_target_": target}, "task")


@pytest.mark.parametrize(
    ("node", "error", "message"),
    [
        ({"_target_": "orca_cli.benchmarks.digits.TaskData"}, UnsafeError, "not defined there"),
        (
            {"_target_": "torch.nn.CrossEntropyLoss", "label_smoothin": 0.1},
            ConfigError,
            r"part\.label_smoothin: .* did you mean 'label_smoothing'\?",
        ),
        ({"_target_": "torch.nn.Linear", "in_features": 3}, ConfigError, r"part\.out_features: a value is needed"),
        ({"_target_": "orca_cli.metrics.otdd.OTD"}, ConfigError, "has no 'OTD'"),
    ],
)
def test_what_is_no_part_is_reported(node, error, message):
    with pytest.raises(error, match=message):
        parts.check(node, "part")
