"""What a space may be, and that a wrong one is refused with the place and what is allowed."""

import math

import pytest

pytest.importorskip("optuna", reason="the extra tune is not installed")

from orca_cli.config import search_space as spaces
from orca_cli.exceptions import ConfigError, OrcaError

WRONG = {
    "search: x": "has no 'search'",
    "algorithm: grid\nparams: {train.lr: [1.0e-3]}": "grid is not allowed; allowed: asha",
    "fixed: {train.epochs: 3}": "needs params",
    "params: {train.lr: 1.0e-3}": "neither a list of values nor a range",
    "params: {train.lr: [[1, 2]]}": "not a list of single values",
    "params: {train.lr: [1.0e-3, 1.0e-3]}": "has a value twice",
    "params: {train.lr: {low: 1e-5, high: 1.0e-3}}": "'1e-5' is not a number",
    "params: {train.lr: {low: 1.0e-2, high: 1.0e-3}}": "0.01..0.001 is not a range",
    "params: {train.lr: {low: 0.0, high: 1.0e-3, log: true}}": "0.0..0.001 is not a range",
    "params: {train.lr: {low: 1.0, high: 2.0, steps: 3}}": "a range has no 'steps'",
    "params: {train.epochs: {low: 1, high: 4, step: 0.5}}": "step 0.5 is not whole",
    "params: {seed: [0, 1]}": "'seed' is not for a search",
    "params: {train.validate_on: [test]}": "'train.validate_on' is not for a search",
    "params: {train.lr: [1.0e-3]}\nfixed: {train.lr: 1.0e-3}": "train.lr is fixed as well",
    "params: {train.lr: !!python/object/apply:os.system [ls]}": "asks for an object",
}


@pytest.mark.parametrize("text", WRONG, ids=list(WRONG.values()))
def test_a_wrong_space_is_refused_with_the_file_and_what_is_allowed(text, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(OrcaError) as caught:
        spaces.read(path)
    line = str(caught.value)
    assert WRONG[text] in line
    assert str(path) in line
    assert caught.value.hint


def test_a_name_is_looked_for_in_both_folders_and_a_typo_is_reported(tmp_path):
    (tmp_path / "space").mkdir()
    (tmp_path / "space" / "mine.yaml").write_text(
        "params: {train.lr: [1.0e-3, 1.0e-4], train.epochs: {low: 1, high: 4}}"
    )
    space = spaces.find("mine", tmp_path)
    assert space.baseline == {"metric": "none"}
    sizes = [len(param.choices) for param in spaces.find("paper_roberta", None).params.values()]
    assert sorted(sizes) == [3, 4, 5, 5]
    assert spaces.find(str(tmp_path / "space" / "mine.yaml"), None) == space
    with pytest.raises(ConfigError, match="did you mean 'paper_roberta'"):
        spaces.find("paper_robert", None)


def test_continuous_numbers_are_rounded_and_others_kept(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "params: {train.lr: {low: 1.0e-5, high: 1.0}, train.epochs: {low: 1, high: 4096}, train.clip: [0.12345]}"
    )
    plain = spaces.read(path).plain({"train.lr": math.pi / 1000, "train.epochs": 1234, "train.clip": 0.12345})
    assert plain == {"train.lr": 0.00314, "train.epochs": 1234, "train.clip": 0.12345}
