"""A setting is declared once: by the signature of its part, from which files in conf/ only differ."""

import importlib
import inspect

import pytest

from orca_cli.config import compose, configuration, declarations, parts
from orca_cli.config.setting_checks import PARTS

FILES = {
    f"{group}/{name}": path
    for group in PARTS
    for name, path in configuration.choices(group).items()
    if configuration.content(path).get(group, configuration.content(path)).get(parts.TARGET)
}


@pytest.fixture
def node(request):
    group = request.param.partition("/")[0]
    content = configuration.content(FILES[request.param])
    return group, content.get(group, content)


EVERY_PART = pytest.mark.parametrize("node", FILES, indirect=True)


@EVERY_PART
def test_what_the_source_says_is_what_python_sees(node):
    group, settings = node
    module, _, name = settings[parts.TARGET].rpartition(".")
    target = getattr(importlib.import_module(module), name)
    reserved = declarations.RESERVED.get(group, ())
    expected = {}
    for parameter in parts.parameters_of(target).values():
        default = parameter.default
        if isinstance(default, tuple):
            default = list(default)
        if default is inspect.Parameter.empty:
            default = declarations.MISSING
        if parameter.name not in reserved:
            expected[parameter.name] = default
    declared = declarations.settings_of(group, settings)
    assert {key: setting.default for key, setting in declared.items()} == expected
    assert list(declared) == list(expected)


@EVERY_PART
def test_a_file_repeats_no_default(node):
    group, settings = node
    declared = declarations.settings_of(group, settings)
    repeated = [
        key
        for key, setting in declared.items()
        if key in settings and settings[key] == setting.default != declarations.MISSING
    ]
    assert repeated == []


@EVERY_PART
def test_every_setting_has_a_meaning(node, request):
    group, settings = node
    explained = configuration.comments(FILES[request.node.callspec.params["node"]])
    declared = declarations.settings_of(group, settings)
    silent = [key for key, setting in declared.items() if not (setting.meaning or key in explained)]
    assert silent == []


SOURCE = """
from dataclasses import dataclass
from typing import Annotated

from parts_elsewhere import Base as Renamed

Rate = Annotated[float, "per step"]
SIZES = (1, 2)


class Part:
    def __init__(self, a, *, b: Annotated[int, "how many", "of them"] = 3, c: Rate = 0.5, d=SIZES, e=max(1, 2)):
        pass


@dataclass
class Record:
    path: Annotated[str, "a file"]
    trait = 1
    on: bool = True


def load(settings: Record, folder):
    pass
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "declared_parts.py").write_text(SOURCE)
    (tmp_path / "parts_elsewhere.py").write_text("class Base:\n    size: int = 4\n")
    monkeypatch.syspath_prepend(tmp_path)
    return "declared_parts"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "Part",
            {"a": ("???", ""), "b": (3, "of them"), "c": (0.5, "per step"), "d": ([1, 2], "")},
        ),
        ("load", {"path": ("???", "a file"), "on": (True, ""), "folder": ("???", "")}),
        ("Renamed", {"size": (4, "")}),
        ("Absent", {}),
    ],
)
def test_defaults_and_meanings_are_read_off_the_source(name, expected, module):
    declared = declarations.declared(f"{module}.{name}")
    assert {key: (entry.default, entry.meaning) for key, entry in declared.items()} == expected


def test_nothing_is_imported_of_a_part_that_is_not_admitted(tmp_path, monkeypatch):
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "__init__.py").write_text("raise SystemExit('imported')")
    (tmp_path / "evil" / "part.py").write_text("def load(): pass")
    monkeypatch.syspath_prepend(tmp_path)
    assert declarations.declared_node("task", {parts.TARGET: "evil.part.load"}) == {}


def test_a_default_may_be_typed_though_no_file_has_it():
    with compose.session() as session:
        job = session.compose(["task=digits", "task.train_size=7", "embedder.max_tokens=5"])
    assert (job.config.task["train_size"], job.config.embedder["max_tokens"]) == (7, 5)
