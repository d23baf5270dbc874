"""The command line, called in this process."""

import json
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO

from orca_cli.cli import main


def call(*words):
    """Return exit code, standard output and standard error of a command, none of whose failures is unexpected."""
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        code = main(list(map(str, words)))
    messages = err.getvalue()
    assert "unexpected" not in messages, f"{words}: {messages}"
    assert "Traceback" not in messages
    return code, out.getvalue(), messages


def read_text(*words):
    """Return what a command that succeeds writes to standard output."""
    code, out, err = call(*words)
    assert code == 0, err
    return out


def read_json(*words):
    return json.loads(read_text(*words, "--json"))


def refused(code, *words):
    """Return the one line of a command that has to be refused."""
    exit_code, out, err = call(*words)
    assert (exit_code, out) == (code, "")
    assert err.startswith("orca: error: ")
    assert err.count("\n") == 1
    return err
