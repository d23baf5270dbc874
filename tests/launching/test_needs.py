"""What runs need, and that its names are those which the readers look for."""

import pytest

from orca_cli.config import compose
from orca_cli.data import catalogue
from orca_cli.exceptions import ConfigError
from orca_cli.launching.needs import needs_of
from tests import benchmark_files

# What makes a task read its published files.
FROM_FILES = {"listops": ["task.origin=files"], "darcy": ["task.origin=files"]}


def needs(*overrides):
    with compose.session() as session:
        return needs_of([session.compose([*overrides])])


@pytest.mark.parametrize("task", benchmark_files.TASKS)
def test_files_in_the_original_format_are_all_that_a_task_needs(task, tmp_path):
    words = [f"task={task}", "metric=none", f"paths.data={tmp_path}", *FROM_FILES.get(task, [])]
    (needed,) = needs(*words).data
    assert needed.is_absent
    assert needed.missing
    benchmark_files.make(task, tmp_path)
    assert not needed.is_absent
    assert needed.missing == []


@pytest.mark.parametrize(
    "words",
    [
        ["task=listops"],
        ["task=darcy", "metric=none"],
        ["task=spherical", "task.origin=cifar100", "metric=none"],
        ["task=deepsea", "task.path=elsewhere", "metric=none"],
        ["task=digits", "source=conll2003", "align.epochs=0"],
        ["task=digits", "source=conll2000", "source.name=mine"],
    ],
)
def test_settings_that_read_no_published_files_need_none(words, tmp_path):
    assert needs(*words, f"paths.data={tmp_path}").data == []


def test_a_source_reads_the_files_of_a_task(tmp_path):
    (needed,) = needs("source=proteins", f"paths.data={tmp_path}").data
    assert needed.folder == tmp_path / "homology"
    assert [file.path for file in needed.missing] == ["remote_homology.tar.gz"]
    benchmark_files.make("homology", tmp_path)
    assert needed.missing == []


def test_what_several_runs_share_is_needed_once(tmp_path):
    with compose.session() as session:
        words = ["task=deepsea", "body=roberta", f"paths.data={tmp_path}"]
        jobs = session.expand([*words, "seed=0,1"]).jobs
    both = needs_of(jobs)
    assert [needed.entry.name for needed in both.data] == ["deepsea", "conll2003"]
    assert [body.checkpoint for body in both.bodies] == ["roberta-base"]


def test_files_in_another_form_are_left_to_the_reader(tmp_path):
    """Names that the file of the task does not list, and half a download, which is no data."""
    words = ["task=homology", "metric=none", f"paths.data={tmp_path}"]
    (needed,) = needs(*words).data
    folder = tmp_path / "homology"
    folder.mkdir()
    for name in ("checksums.json", ".lock", "remote_homology.tar.gz.part"):
        (folder / name).touch()
    assert needed.is_absent
    (folder / "remote_homology_valid.lmdb").touch()
    assert not needed.is_absent


def test_data_of_the_users_own_file_are_not_missed(tmp_path):
    (tmp_path / "conf" / "task").mkdir(parents=True)
    text = "# @package _global_\n# Mine\ndefaults: [ninapro]\n"
    (tmp_path / "conf" / "task" / "mine.yaml").write_text(text)
    with compose.session(tmp_path / "conf") as session:
        job = session.compose(["task=mine", "metric=none", f"paths.data={tmp_path}"])
    assert needs_of([job], shipped=True).data == []


def test_a_file_of_settings_cannot_add_files_to_another_data_set():
    node = {"data": {"files_of": "satellite", "files": [{"path": "satellite_train.npy"}]}}
    with pytest.raises(ConfigError, match="has both `files` and `files_of`"):
        catalogue.described("task", "evil", node)
