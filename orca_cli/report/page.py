"""A report as one self-contained HTML page: one style sheet, one script, text; nothing from the network.

The policy in its head forbids everything but these two, which it knows by their hashes: whatever a run folder's names hold, a
browser runs nothing else and fetches nothing. The template escapes every text, and control characters are written out.
"""

import base64
import hashlib
from dataclasses import replace
from importlib import resources

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from orca_cli import __version__
from orca_cli.report import figures
from orca_cli.report.credits import CITATION
from orca_cli.report.formats import Page
from orca_cli.report.layout import ALARM, clean, layout_of

_LONGEST = 2000  # characters of a text, such as a note


def page_of(view: Page, command: str, study: str) -> str:
    """Return the page, which names the command that made it, and its study if there is one.

    The same records give the same bytes. Without matplotlib it has no figures, and says so.
    """
    names = ("Gains", "Gains by set") if view.comparison else ("Ranks",) if view.ranking else ()
    tables = dict(zip(names, (replace(layout, problems=[]) for layout in view.layouts()), strict=False))
    sheet, script = _file("style.css"), _file("script.js")
    environment = Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        finalize=lambda value: clean(value, longest=_LONGEST) if type(value) is str else value,  # Markup is ours
    )
    return environment.from_string(_file("page.html")).render(
        policy=f"default-src 'none'; style-src '{_hash(sheet)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'",
        sheet=Markup(sheet),
        script=Markup(script),
        draw=lambda chart: Markup(figures.inline(chart)),  # its texts are escaped
        study=study,
        command=command,
        version=__version__,
        tables=tables | {"Results": layout_of(view.table)},
        charts=figures.all_charts(view.table, view.comparison) if figures.is_available() else [],
        can_draw=figures.is_available(),
        ALARM=ALARM,
        citation=CITATION.splitlines(),
    )


def _file(name: str) -> str:
    return resources.files("orca_cli.report").joinpath(name).read_text("utf-8")


def _hash(content: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"
