"""The settings of the metrics: what their YAML files say is what their classes declare."""

import typing

import pytest

from orca_cli.config import configuration, parts
from orca_cli.config.ranges import limits_in_words, meaning
from orca_cli.exceptions import ConfigError

DEPARTS = {"minibatch_ot": ("size", "labels")}  # metric=otdd without labels, as a choice of its own
FILES = {name: path for name, path in configuration.choices("metric").items() if name != "none"}


@pytest.mark.parametrize("name", FILES)
def test_a_file_has_the_keys_defaults_and_meanings_of_its_class(name):
    node = configuration.content(FILES[name])
    target = parts.resolve(node, "metric")
    hints = typing.get_type_hints(target.__init__, include_extras=True)
    del hints["return"]
    assert set(node) == {"_target_", *hints}
    built, plain = parts.build(node, "metric"), target()
    for key, hint in hints.items():
        assert (getattr(built, key) == getattr(plain, key)) == (key not in DEPARTS.get(name, ())), key
        limits = limits_in_words(hint)
        expected = f"{meaning(hint)} ({limits})" if limits else meaning(hint)
        assert configuration.comments(FILES[name])[key] == expected, key


@pytest.mark.parametrize(
    ("name", "key", "values"),
    [
        ("euclidean", "chunk", [0]),
        ("mmd", "bandwidth", ["median"]),
        ("mmd", "chunk", [0]),
        ("moments", "eps", [0]),
        ("otdd_by_class", "reg", [0, -1, float("nan")]),
        ("otdd_by_class", "scaling", [0, 1]),
        ("otdd_by_class", "tolerance", [-1, 2.1]),
        ("otdd_by_class", "newton_steps", [0]),
        ("otdd_by_class", "newton_points", [-1]),
        ("otdd_by_class", "max_iterations", [0]),
        ("otdd", "size", [0]),
        ("otdd", "classes", [0]),
        ("otdd_exact", "max_iterations", [0]),
        ("otdd_gaussian", "reg", [0.0]),
        ("otdd_reference", "scaling", [1.0]),
        ("otdd_reference", "label_reg", [0]),
        ("transrate", "eps", [0]),
        ("transrate", "normalise", [1]),
    ],
)
def test_values_that_are_not_allowed_are_named(name, key, values):
    for value in values:
        with pytest.raises(ConfigError, match=rf"metric\.{key}: .*; allowed: "):
            parts.build(configuration.content(FILES[name]) | {key: value}, "metric")
