"""The digest of the program's sources, and the commit of a checkout."""

import subprocess

import pytest

import orca_cli
from orca_cli.runs import program

SOURCE = '''"""About the module."""

RATE = 0.1  # a comment


class Part:
    """About the class."""


def step(rate):
    """About the function."""
    return rate * 2
'''
CHANGES = {
    "nothing": (lambda text: text, True),
    "a comment": (lambda text: text.replace("a comment", "another"), True),
    "docstrings": (lambda text: text.replace("About", "On"), True),
    "no docstring": (lambda text: text.replace('    """About the function."""\n', ""), True),
    "layout": (lambda text: text.replace("0.1  #", "(\n    0.1\n)  #"), True),
    "a number": (lambda text: text.replace("0.1", "0.2"), False),
    "its type": (lambda text: text.replace("2\n", "2.0\n"), False),
    "an operator": (lambda text: text.replace("rate *", "rate +"), False),
    "a text that is no docstring": (lambda text: text.replace("= 0.1", "= 'About'"), False),
    "a name": (lambda text: text.replace("step", "steps"), False),
    "a line more": (lambda text: text + "RATE = 0\n", False),
    "what cannot be parsed": (lambda text: text + "(", False),
}


@pytest.fixture
def sources(tmp_path):
    """Return a function that writes a package with one module, and returns its folder."""

    def write(name, text, module="part.py"):
        folder = tmp_path / name / "inner"
        folder.mkdir(parents=True)
        (folder / module).write_text(text)
        (folder.parent / "settings.yaml").write_text(name)
        return folder.parent

    return write


@pytest.mark.parametrize("name", CHANGES)
def test_what_computes_counts_and_what_explains_does_not(sources, name):
    change, is_same = CHANGES[name]
    original = sources("original", SOURCE)
    changed = sources("changed", change(SOURCE))
    assert (program.digest(original) == program.digest(changed)) is is_same


def test_the_name_of_a_module_counts(sources):
    original = sources("original", SOURCE)
    renamed = sources("renamed", SOURCE, module="other.py")
    assert program.digest(original) != program.digest(renamed)


def test_a_link_that_leads_nowhere_is_no_source(sources):
    linked = sources("linked", SOURCE)
    (linked / "gone.py").symlink_to(linked / "nowhere.py")
    assert program.digest(linked) == program.digest(sources("original", SOURCE))


def test_the_commit_of_a_checkout_and_of_a_worktree(tmp_path, monkeypatch):
    checkout = tmp_path / "checkout"
    worktree = tmp_path / "worktree"
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "another"))  # as inside a hook of git's

    def git(*words):
        command = ["git", f"--git-dir={checkout}/.git", f"--work-tree={checkout}"]
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        done = subprocess.run(
            [*command, *identity, *words], capture_output=True, check=True, text=True
        )
        return done.stdout.strip()

    checkout.mkdir()
    assert program.commit(checkout) is None
    git("init")
    assert program.commit(checkout) is None  # nothing is committed yet
    git("commit", "--allow-empty", "-m", "first")
    assert program.commit(checkout) == git("rev-parse", "HEAD")
    git("worktree", "add", str(worktree))
    assert program.commit(worktree) == git("rev-parse", "HEAD")
    monkeypatch.setenv("PATH", str(tmp_path))  # no git there
    assert program.commit(checkout) is None


def test_the_record_is_of_this_program():
    record = program.record()
    assert record["version"] == orca_cli.__version__
    assert record["sha256"] == program.digest()
    assert len(record["sha256"]) == 64


def test_a_checkout_that_moves_on_is_not_the_program_of_a_run(monkeypatch):
    before = dict(program.record())
    monkeypatch.setattr(program, "commit", lambda checkout: "0" * 40)
    assert program.record() == before
