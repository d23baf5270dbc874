"""Images whose targets stand in a table: numbers, labels and classes; how rows name files; what is refused."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from orca_cli.exceptions import ConfigError, DataError
from tests.tasks.builders import every, refused, splits

N = 40
LEVEL = np.random.default_rng(0).permutation(np.arange(10, 250, 6))[:N]
NAMES = [f"{'left' if i % 2 else 'right'}/{i:03d}.png" for i in range(N)]
TABLE = pd.DataFrame({"image": NAMES, "age": LEVEL / 3})


@pytest.fixture
def read(tmp_path, build):
    """Write grey images, each of one level, and load them with a table of their targets."""
    for name, level in zip(NAMES, LEVEL, strict=True):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((6, 6, 3), level, np.uint8)).save(path)

    def call(frame, **settings):
        frame.to_csv(tmp_path / "ages.csv", index=False)
        return build("images", **{"path": "photos", "table": "ages.csv", "normalize": "none"} | settings)

    return call


def levels(samples):
    """Return the level of each image, and its targets."""
    batch = every(samples)
    return np.round(batch.x[:, 0, 0, 0].numpy() * 255).astype(int), batch.y


def test_numbers_of_a_table_are_predicted_from_images(read):
    task = read(TABLE)
    assert (task.kind, task.num_outputs, task.class_names) == ("values", 1, ("age",))
    seen = []
    for samples in splits(task):
        level, y = levels(samples)
        np.testing.assert_allclose(y[:, 0], level / 3, rtol=1e-6)
        seen += level.tolist()
    assert sorted(seen) == sorted(LEVEL)
    assert read(TABLE.assign(age=LEVEL / 4)).train.digest() != task.train.digest()


def test_classes_and_labels_stand_in_a_table_too_and_what_does_not_fit_is_refused(read):
    task = read(TABLE.assign(age=np.where(LEVEL > 120, "old", "young")))
    assert (task.kind, task.class_names) == ("classes", ("old", "young"))
    for samples in splits(task):
        level, y = levels(samples)
        assert ((level > 120) == (y.numpy() == 0)).all()
    task = read(TABLE.assign(age=LEVEL > 120, even=LEVEL % 2 == 0), kind="labels")
    level, y = levels(task.train)
    assert (task.kind, task.class_names) == ("labels", ("age", "even"))
    assert y.tolist() == np.stack([level > 120, level % 2 == 0], axis=1).astype(float).tolist()

    for table, settings, message in (
        (TABLE.assign(extra=1), {"kind": "classes"}, "which column is the target.*task.target=COLUMN"),
        (TABLE.replace(NAMES[1], "no/1.png"), {}, r"\[image\]: 'no/1.png' in row 2 is not an image"),
    ):
        with refused(message, (ConfigError, DataError)):
            read(table, **settings)
