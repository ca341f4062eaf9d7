"""Formulas of the documentation as MathML: pages need no script and no network for them."""

import html
import re

from latex2mathml.converter import convert

FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(content: str, **_: object) -> str:
    """Called by MkDocs for every page: replaces what the extension arithmatex has marked."""
    return FORMULA.sub(_formula, content)


def _formula(match: re.Match[str]) -> str:
    display = "block" if match[2] == "[" else "inline"
    return str(convert(html.unescape(match[3]), display=display))
