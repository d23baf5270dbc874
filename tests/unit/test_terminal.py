"""What a person reads while a run works, and what happens where nobody can."""

import json
import os
import sys

from orca_cli import terminal
from orca_cli.exceptions import DataError


def test_a_result_is_text_or_json_and_its_failures_follow(capsys):
    shown = [terminal.facts([("value", "[bold]50 %")]), "w" * 300]
    result = terminal.Result({"schema": 1, "value": 0.5}, shown, [DataError("is missing", where="a.npz")], code=3)
    assert terminal.render(result) == 3
    out, err = capsys.readouterr()
    assert out == f"value  [bold]50 %\n{'w' * 300}\n"
    assert err == "orca: error: a.npz: is missing\n"
    assert terminal.render(result, as_json=True) == 3
    out, err = capsys.readouterr()
    assert json.loads(out) == {"schema": 1, "value": 0.5}
    assert err == "orca: error: a.npz: is missing\n"
    assert terminal.Result({}).code == 0
    assert terminal.Result({}, failures=[DataError("is missing")]).code == DataError.code


def test_lost_output_does_not_end_the_work(monkeypatch, capfd):
    terminal.configure_logging()
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        with terminal.lost_output_allowed():
            terminal.print_result("a line that nobody reads")
    assert "standard output is lost" in capfd.readouterr().err
