"""Pictures inside the text of a page, as small as it wants them."""

import base64
import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

_PNG, _JPEG = "data:image/png;base64,", "data:image/jpeg;base64,"
# Scales of each side, and colours, in the order tried to make a picture small. Sixty-four do for letters with smooth
# edges and a colour map; the last are four bits a dot, 52 and 23 kB of the largest plot whatever it shows.
_SMALLER = ((1.0, 64), (0.7, 64), (0.5, 64), (0.35, 32), (0.3, 16), (0.2, 16))
# The same for images, where the second is JPEG's quality.
_SMALLER_IMAGES = ((1.0, 80), (1.0, 60), (0.8, 55), (0.6, 50), (0.45, 40), (0.3, 30))


def data_address(png: bytes, most_bytes: int, *, has_images: bool = False) -> str:
    """Return a picture as a ``data:`` address of so many bytes at most, with fewer colours and dots if need be.

    One that has images becomes a JPEG. Empty if even the smallest picture does not fit.
    """
    from PIL import Image

    most_bytes = (most_bytes - len(_JPEG)) // 4 * 3
    if len(png) <= most_bytes:
        return _PNG + base64.b64encode(png).decode()
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    for scale, quality in _SMALLER_IMAGES if has_images else _SMALLER:
        size = (max(round(picture.width * scale), 1), max(round(picture.height * scale), 1))
        content = _content(picture.resize(size, Image.Resampling.LANCZOS), quality, has_images)
        if len(content) <= most_bytes:
            return (_JPEG if has_images else _PNG) + base64.b64encode(content).decode()
    return ""


def _content(picture: "Image", quality: int, has_images: bool) -> bytes:
    buffer = io.BytesIO()
    if has_images:
        picture.save(buffer, format="jpeg", quality=quality, optimize=True)
    else:
        picture.quantize(quality).save(buffer, format="png", optimize=True)
    return buffer.getvalue()
