"""The catalog of Bluesky runs in Tiled: what ``TiledWriter`` and people at a prompt expect of it."""

from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tiled.client.container import Container
    from tiled.structures.core import Spec

# What TiledWriter of bluesky-tiled-plugins 2 expects of its root, by name and version.
RAW_SPEC = ("CatalogOfBlueskyRuns", "3.0")
MAKE_COMMAND = "bluesky-prefect make-catalog"
# How tags begin that stand for a person or a service.
_WRITERS = ("user:", "service:")


def spec_problem(raw: Any, name: str) -> str:
    """Return what the catalog of runs lacks and how it gets that, or ""; the name is what messages call the server."""
    if has_raw_spec((spec.name, spec.version) for spec in raw.specs):
        return ""
    return without_raw_spec("/".join(raw.path_parts), name)


def has_raw_spec(specs: Iterable[tuple[str, str | None]]) -> bool:
    """Tell whether one of these specs, by name and version, is that of a catalog of runs."""
    return any(spec == RAW_SPEC[0] and (version or "").startswith("3.") for spec, version in specs)


def without_raw_spec(path: str, name: str) -> str:
    """Return what does not work with a catalog that lacks its spec; see `spec_problem`."""
    return (
        f"The catalog {path or '/'!r} of Tiled at {name} lacks the spec {' '.join(RAW_SPEC)}: runs are written to it, "
        f"but raw[-1], raw[scan_id] and the clients of Bluesky runs do not work there. Give it the spec: {MAKE_COMMAND}"
    )


def make_raw_catalog(root: "Container", path: str) -> bool:
    """Make the catalog of runs, with the containers above it, or give the one that is there its spec.

    Returns False if there was nothing to do.
    """
    from tiled.structures.core import Spec

    if make_container(root, path, specs=[Spec(*RAW_SPEC)]):
        return True
    raw: Any = root[tuple(path.strip("/").split("/"))]
    if not spec_problem(raw, ""):
        return False
    # Another version of the spec is none that counts.
    others = [spec for spec in raw.specs if spec.name != RAW_SPEC[0]]
    raw.update_metadata(specs=[*others, Spec(*RAW_SPEC)])
    return True


def make_container(root: "Container", path: str, specs: "Sequence[Spec]" = ()) -> bool:
    """Make a container with those above it; return False if it was there.

    What is made may be seen by those who may see what is above it.
    """
    *parents, last = path.strip("/").split("/")
    container: Any = root
    for parent in parents:
        container = container[parent] if parent in container else _make(container, parent)
    if last in container:
        return False
    _make(container, last, specs)
    return True


def inherited(tags: Iterable[str] | None) -> list[str] | None:
    """Return the access tags that an entry gets from another one; None where it has none to give.

    Tiled itself tags what is written without any with its writer, and refuses such tags from others.
    """
    return [tag for tag in tags or () if not tag.startswith(_WRITERS)] or None


def _make(above: Any, key: str, specs: "Sequence[Spec]" = ()) -> Any:
    """Make a container, and return it, or the one that somebody else was a moment faster to make."""
    import httpx

    tags = getattr(above, "access_tags", None)  # raises AttributeError where the server has none
    try:
        return above.create_container(key, specs=specs, access_tags=inherited(tags))
    except httpx.HTTPStatusError as error:
        if error.response.status_code != HTTPStatus.CONFLICT:
            raise
        return above[key]
