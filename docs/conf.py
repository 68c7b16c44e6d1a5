"""The site: how Sphinx makes it of the pages beside this file."""

import re
import sys
import tomllib
from pathlib import Path

from sphinx.application import Sphinx

from bluesky_prefect import __version__

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
_PROJECT = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]

project = _PROJECT["name"]
release = __version__
copyright = "the authors of bluesky-prefect"  # noqa: A001  # Sphinx's name for it
root_doc = "index"
extensions = ["myst_parser", "sphinx.ext.autodoc", "numpydoc", "generated_reference"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
# Transcripts of a prompt, which no lexer knows.
highlight_language = "text"
suppress_warnings = ["misc.highlighting_failure"]

autodoc_member_order = "bysource"
autodoc_typehints = "none"
numpydoc_show_class_members = False

html_theme = "pydata_sphinx_theme"
html_title = project
html_show_sourcelink = False
html_copy_source = False
html_static_path = ["static"]
html_css_files = ["site.css"]
html_theme_options = {
    "navbar_align": "left",
    "show_prev_next": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "default",
    "show_toc_level": 2,
}

# Files beside the documents are read in the repository.
_OUTSIDE = re.compile(r"\]\(((?:\.\./)+)((?!images/)[^)#\s]+)")


def link_to_the_repository(app: Sphinx, page: str, text: list[str]) -> None:
    """Point links that lead out of the documents to the repository."""
    depth = page.count("/") + 1
    text[0] = _OUTSIDE.sub(
        lambda link: f"]({_PROJECT['urls']['Repository']}/blob/main/{link[2]}" if link[1] == "../" * depth else link[0],
        text[0],
    )


def setup(app: Sphinx) -> None:
    """Tell Sphinx of it."""
    app.connect("source-read", link_to_the_repository)
