"""Directives for the reference: settings, commands and metrics as the code has them."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from bluesky_prefect.core import Settings
from bluesky_prefect.metrics._collector import METRICS

_BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "more than {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "less than {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "pattern": "matches `{}`",
}


def settings() -> Iterator[str]:
    """Give a definition of each setting: its variable, what it says, its default and its bounds."""
    for name, schema in Settings.model_json_schema(by_alias=False)["properties"].items():
        yield f"`{Settings.model_config['env_prefix']}{name.upper()}`"
        yield f": {schema['description']} *{_facts(schema)}.*\n"


def _facts(schema: dict[str, Any]) -> str:
    return "; ".join([_default(schema), *_alternatives(schema)])


def _default(schema: dict[str, Any]) -> str:
    if schema.get("default") is None:
        return "Not set by default" if "default" in schema else "By default the user's own"
    return f"Default `{schema['default'] if schema['default'] != '' else 'empty'}`"


def _alternatives(schema: dict[str, Any]) -> Iterator[str]:
    for one in schema.get("anyOf", [schema]):
        if "enum" in one:
            yield "one of " + ", ".join(f"`{value}`" for value in one["enum"])
        for bound, text in _BOUNDS.items():
            if bound in one:
                yield text.format(one[bound])


def metrics() -> Iterator[str]:
    """Give a definition of each metric: its name, its type, its labels and what it says."""
    for one in METRICS.values():
        labels = f" by {', '.join(f'`{label}`' for label in one.labels)}" if one.labels else ""
        yield f"`{one.name}`"
        yield f": {one.text} *{one.type.capitalize()}{labels}.*\n"


def commands() -> Iterator[str]:
    """Give what ``--help`` says of each command."""
    command = [sys.executable, "-m", "typer", "bluesky_prefect.cli._app", "utils", "docs", "--name", "bluesky-prefect"]
    text = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    yield text.partition("\n")[2]  # the page has its own title


_PARTS = {"settings": settings, "metrics": metrics, "commands": commands}


class Generated(SphinxDirective):
    """Markdown that the code gives."""

    has_content = False
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return what stands in the directive's place."""
        text = "\n".join(_PARTS[self.arguments[0]]())
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx of it."""
    app.add_directive("generated", Generated)
    return {"parallel_read_safe": True}
