"""A run ends with a picture of its answer, on the terminal and as a file."""

import json
from xml.etree import ElementTree

import numpy as np
import pytest

from tests.cli.conftest import results, run_folders


def test_a_run_ends_with_its_confusion_matrix_and_keeps_it_as_a_file(completed, environment):
    (run,), (result,) = run_folders(environment), results(environment)
    right = round(50 * (1 - result["error"]["value"]))
    answer = f"{right} of 50 test samples right ({2 * right:.2f} %)"
    assert answer in completed
    assert "3_finetune/answer.svg" in completed[completed.index(answer) :]
    picture = ElementTree.parse(run / "3_finetune" / "answer.svg").getroot()
    assert picture.attrib["aria-label"] == f"digits: {answer}"


@pytest.mark.usefixtures("completed")
def test_other_programs_are_given_the_numbers_of_the_picture(orca, environment, small):
    code, out, err = orca("run", *small, "--json", "--quiet")
    assert code == 0, err
    answer = json.loads(out)["run"]["answer"]
    stored = np.load(run_folders(environment)[0] / "3_finetune" / "predictions.npz")
    assert np.sum(answer["confusion"], axis=1).tolist() == np.bincount(stored["targets"], minlength=10).tolist()
    assert answer["names"] == list("0123456789")
    (run_folders(environment)[0] / "3_finetune" / "predictions.npz").write_bytes(b"PK damaged")
    code, out, err = orca("run", *small, "--json")
    assert (code, json.loads(out)["run"]["answer"]) == (0, None)
    assert "cannot be shown" in err
