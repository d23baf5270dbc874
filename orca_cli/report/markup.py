"""The report as Markdown and as LaTeX; names from the disk are escaped, so that they can only be read."""

from __future__ import annotations

import re
from collections.abc import Callable

from orca_cli.report.grid import Entry, Grid

_MARKDOWN = re.compile(r"[\\`*\[\]<>|&~$#]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "_": r"\_",
    "%": r"\%",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "\u00b1": r"$\pm$",
    # At the start of a row these would be read as arguments of the line break before them.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
}


def markdown(grid: Grid) -> str:
    """Return a pipe table with the best results in bold, the caption, the notes and the problems."""
    lines = []
    if grid.rows:
        tasks = [
            "<br>".join(_red(_markdown(line)) if is_alarm else _markdown(line) for line, is_alarm in header)
            for header in _headers(grid)
        ]
        head = [*map(_markdown, grid.names), *tasks, *(["rank"] if grid.ranked else [])]
        rule = [*(":--" for _ in grid.names), *("--:" for _ in head[len(grid.names) :])]
        body = _rows(grid, _markdown, lambda text: f"**{text}**")
        lines = [f"| {' | '.join(cells)} |" for cells in (head, rule, *body)] + [""]
    lines += [line for alarm in grid.alarms for line in (_red(f"**{_markdown(alarm)}**"), "")]
    lines += [_markdown(grid.caption), ""] if grid.caption else []
    lines += [f"- {_markdown(note)}" for note in grid.notes]
    if grid.problems:
        lines += ["", "Not in the means:", ""]
        lines += [
            f"- {_markdown(state)}: {_markdown(reason)} ({_markdown(path)})" for state, reason, path in grid.problems
        ]
    return "\n".join(lines).strip() + "\n"


def latex(grid: Grid) -> str:
    r"""Return a tabular for the booktabs package with the best results in \textbf; notes are comments below it."""
    lines = [r"% needs \usepackage{booktabs}" + (r" and \usepackage{xcolor}" if grid.alarms else "")]
    if grid.rows:
        layout = "l" * len(grid.names) + "r" * (len(grid.columns) + grid.ranked)
        lines += [rf"\begin{{tabular}}{{{layout}}}", r"\toprule"]
        height = max(map(len, grid.columns))
        for level in range(height):
            names = [_latex(name) if level == height - 1 else "" for name in grid.names]
            tasks = [_latex_header(header[level]) if level < len(header) else "" for header in _headers(grid)]
            rank = [""] if level < height - 1 else ["rank"]
            lines.append(_latex_row([*names, *tasks, *(rank if grid.ranked else [])]))
        lines.append(r"\midrule")
        lines += [_latex_row(row) for row in _rows(grid, _latex, lambda text: rf"\textbf{{{text}}}")]
        lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [r"\\[1ex] \textcolor{red}{" + _latex(alarm) + "}" for alarm in grid.alarms]
    lines += [f"% {text}" for text in (grid.caption, *grid.notes) if text]
    lines += [f"% {state}: {reason} ({path})" for state, reason, path in grid.problems]
    return "\n".join(lines) + "\n"


def _headers(grid: Grid) -> list[list[tuple[str, bool]]]:
    """Return the lines of every column's header, each with whether it is an alarm."""
    return [
        [(line, alarmed and line is header[-1]) for line in header]
        for header, alarmed in zip(grid.columns, grid.alarmed, strict=True)
    ]


def _red(text: str) -> str:
    return f'<span style="color:red">{text}</span>'


def _latex_header(line: tuple[str, bool]) -> str:
    text, is_alarm = line
    return rf"\textcolor{{red}}{{{_latex(text)}}}" if is_alarm else _latex(text)


def _rows(grid: Grid, escape: Callable[[str], str], bold: Callable[[str], str]) -> list[list[str]]:
    def cell(entry: Entry) -> str:
        main = bold(escape(entry.main)) if entry.best else escape(entry.main)
        return f"{main} {escape(entry.rest)}" if entry.rest else main

    return [
        [*map(escape, names), *map(cell, entries), *([escape(rank)] if grid.ranked else [])]
        for names, entries, rank in grid.rows
    ]


def _markdown(text: str) -> str:
    return _MARKDOWN.sub(r"\\\g<0>", text)


def _latex(text: str) -> str:
    return "".join(_LATEX.get(char, char) for char in text)


def _latex_row(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"
