"""A banner on Superset's pages while queries cannot run."""

from __future__ import annotations

from pathlib import Path

import jinja2

TEMPLATES = Path(__file__).with_name("templates")


def load_banner(beneath: jinja2.BaseLoader | None) -> jinja2.BaseLoader:
    """Return a loader that adds the banner to what another one loads.

    Superset includes tail_js_custom_extra.html in each page, for its operators. Ours includes the
    one that is there without us, as `beneath/...`, so nobody's own is lost.
    """
    ours = jinja2.FileSystemLoader(TEMPLATES)
    theirs = beneath or jinja2.DictLoader({})
    return jinja2.ChoiceLoader([ours, theirs, jinja2.PrefixLoader({"beneath": theirs})])
