"""The model card of an export: how its weights were chosen, and names of its classes."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from orca_cli.prediction.export import model_card
from orca_cli.prediction.loading import open_model

EXPORTED = Path(__file__).parent.parent / "recorded" / "exported"


@pytest.fixture(scope="module")
def loaded():
    return open_model(EXPORTED)


@pytest.mark.parametrize(
    ("selected", "sentence"),
    [
        ({"on": "validation", "by": "best"}, "The weights were chosen on the validation split"),
        ({"on": "test", "by": "last"}, "The weights were validated on the test split"),
        ({"on": "nothing", "by": "last"}, "The weights are from the last step"),
        ({"on": "folds", "by": "last"}, "Each fold's model was validated on"),
    ],
)
def test_a_card_says_how_the_weights_were_chosen(loaded, selected, sentence):
    result = loaded.record.result | {"selected": selected}
    card = model_card(replace(loaded, record=replace(loaded.record, result=result)))
    assert sentence in card
    assert card.count("The weights ") + card.count("Each fold's model") == 1


@pytest.mark.parametrize("count", [2, 50, 51, 120])
def test_a_card_names_up_to_fifty_classes_and_counts_the_others(loaded, count):
    names = tuple(f"class-{number}" for number in range(count))
    targets = replace(loaded.preprocessing.targets, names=names)
    preprocessing = replace(loaded.preprocessing, targets=targets)
    card = model_card(replace(loaded, preprocessing=preprocessing))
    assert re.findall(r"`(class-\d+)`", card) == list(names[:50])
    assert re.findall(r"and (\S+) more", card) == ([str(count - 50)] if count > 50 else [])
