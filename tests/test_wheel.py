"""The wheel, installed into a clean environment, works from another folder."""

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", folder, ROOT],
        check=True,
        capture_output=True,
    )
    return next(folder.glob("*.whl"))


def test_wheel_carries_every_configuration(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in (ROOT / "conf").rglob("*.yaml"):
        assert f"orca_cli/conf/{path.relative_to(ROOT / 'conf')}" in names
    assert {f"orca_cli/report/{name}" for name in ("page.html", "style.css", "script.js")} <= names
    assert not [name for name in names if name.startswith(("tests/", "conf/", "docs/"))]


def test_installed_command_runs_from_another_folder(wheel, tmp_path):
    """The environment sees the dependencies of the present environment, but not its editable install of this project."""

    def call(*words):
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    venv = tmp_path / "venv"
    call(sys.executable, "-m", "venv", venv)
    site = next((venv / "lib").glob("python*")) / "site-packages"
    call(venv / "bin" / "pip", "install", "--quiet", "--no-deps", wheel)
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    for name in ("orca", "orca-transfer"):
        assert "digits" in call(venv / "bin" / name, "list", "tasks")
    code = "from orca_cli.config.configuration import config_dir; print(config_dir())"
    assert call(venv / "bin" / "python", "-c", code).startswith(str(site))
    call(venv / "bin" / "orca", "run", "--dry-run")
