"""Looks for secrets where they must not be."""

import base64
import json
from pathlib import Path
from urllib.parse import quote


def forms(secret: str) -> set[bytes]:
    """Return what a secret may look like on disk."""
    plain = secret.encode()
    return {plain, plain.hex().encode(), base64.b64encode(plain), quote(secret).encode(), json.dumps(secret).encode()}


def found_in(root: Path, *secrets: str) -> list[tuple[Path, bytes]]:
    """Return the files below a directory that hold one of these, and in which form."""
    contents = ((path, path.read_bytes()) for path in root.rglob("*") if path.is_file())
    return [(path, form) for path, content in contents for one in secrets for form in forms(one) if form in content]
