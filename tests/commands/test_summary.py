"""What a run keeps of its curves in its result."""

from orca_cli.tracking.json_lines import short_curve


def test_a_curve_that_was_thinned_keeps_its_epochs():
    lines = [{"epoch": epoch, "validation_error": 1 / epoch} for epoch in range(1, 251)]
    kept = short_curve(lines, ("epoch", "validation_error"))
    assert (kept[0]["epoch"], kept[-1]["epoch"]) == (1, 250)
    assert len(kept) <= 100
    assert all(line["validation_error"] == 1 / line["epoch"] for line in kept)
