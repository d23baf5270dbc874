"""The wheel, installed into a clean environment, works from another folder."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", folder, ROOT], check=True, capture_output=True
    )
    return next(folder.glob("*.whl"))


def test_wheel_carries_every_configuration(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in (ROOT / "conf").rglob("*.yaml"):
        assert f"orca_cli/conf/{path.relative_to(ROOT / 'conf')}" in names
    assert {"orca_cli/report/page/style.css", "orca_cli/report/page/script.js"} <= names
    assert not [name for name in names if name.startswith(("tests/", "conf/", "docs/"))]


def test_installed_command_runs_from_another_folder(wheel, tmp_path):
    # The environment sees this one's dependencies, but not its editable install of this project.
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    site = next((venv / "lib").glob("python*")) / "site-packages"
    outer = subprocess.run(
        [sys.executable, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    subprocess.run([venv / "bin" / "pip", "install", "--quiet", "--no-deps", wheel], check=True)
    (site / "dependencies.pth").write_text(f"{outer}\n")
    for name in ("orca", "orca-transfer"):
        done = subprocess.run([venv / "bin" / name, "list", "tasks"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "digits" in done.stdout
    where = subprocess.run(
        [venv / "bin" / "python", "-c", "from orca_cli.config.configuration import config_dir; print(config_dir())"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert where.startswith(str(site))
    done = subprocess.run(
        [venv / "bin" / "orca", "run", "--dry-run"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
