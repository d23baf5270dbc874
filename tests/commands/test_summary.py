"""What a run says at its end about its curves."""

from orca_cli.commands.summary import _short_curve
from orca_cli.tracking.json_lines import short_curve


def test_a_curve_that_was_thinned_keeps_its_epochs():
    lines = [{"epoch": epoch, "validation_error": 1 / epoch} for epoch in range(1, 251)]
    text = _short_curve(short_curve(lines, ("epoch", "validation_error")), percent=True)
    assert text.startswith("100.00 % (1) > ")
    assert text.endswith("0.40 % (250)")
    assert all(f"{100 / int(epoch):.2f}" == value for value, _, epoch in (one.split() for one in _parts(text)))


def _parts(text):
    return [part.replace("(", "").replace(")", "") for part in text.split(" > ")]
