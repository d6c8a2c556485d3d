"""Pictures that a person attaches: bounded, decoded and written anew, so that no engine sees a stranger's bytes."""

from __future__ import annotations

import base64
import io
import re
import warnings

from PIL import Image as Pillow
from PIL import ImageOps
from pydantic_core import from_json

from llamaforge import Image, LlamaForgeError

MOST_PICTURES = 4
LARGEST_BYTES = 10 * 2**20
LARGEST_PIXELS = 50_000_000
LONGEST_SIDE = 1536  # pixels; what vision models take is less
THUMBNAIL_SIDE = 240
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
DATA_URL = re.compile(r"data:image/[a-z]+;base64,([A-Za-z0-9+/=]*)")


class CannotRead(LlamaForgeError):
    """What was attached is no picture, or too large."""


def read_pictures(text: str) -> tuple[Image, ...]:
    """Return the pictures that the page sends: a JSON list of data URLs.

    Raises:
        CannotRead: there are too many, or one is none.
    """
    try:
        urls = from_json(text) if text else []
    except ValueError as error:
        raise CannotRead("The pictures did not arrive. Attach them again.") from error
    if not isinstance(urls, list) or len(urls) > MOST_PICTURES:
        raise CannotRead(f"At most {MOST_PICTURES} pictures fit into one message.")
    return tuple(clean_picture(_bytes_of(url)) for url in urls)


def _bytes_of(url: object) -> bytes:
    found = DATA_URL.fullmatch(url) if isinstance(url, str) and len(url) <= 2 * LARGEST_BYTES else None
    try:
        return base64.b64decode(found[1], validate=True) if found else b""
    except ValueError:
        return b""


def clean_picture(data: bytes) -> Image:
    """Return a picture as a JPEG file of at most LONGEST_SIDE pixels, without place, camera and anything else in it.

    Raises:
        CannotRead: it is none.
    """
    if len(data) > LARGEST_BYTES:
        raise CannotRead(f"This picture is too large: at most {LARGEST_BYTES // 2**20} MB.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Pillow.DecompressionBombWarning)
            with Pillow.open(io.BytesIO(data), formats=FORMATS) as picture:
                if picture.width * picture.height > LARGEST_PIXELS:
                    raise CannotRead(f"This picture is too large: at most {LARGEST_PIXELS // 10**6} megapixels.")
                return Image(_jpeg(ImageOps.exif_transpose(picture), LONGEST_SIDE), "image/jpeg")
    # Pillow's decoders raise whatever a damaged file makes them.
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, Warning, Pillow.DecompressionBombError) as error:
        raise CannotRead("This is no picture that can be read. PNG, JPEG, WebP, GIF and BMP can.") from error


def thumbnail(image: Image) -> str:
    """Return a small picture for the page, as a data URL."""
    with Pillow.open(io.BytesIO(image.data), formats=FORMATS) as picture:
        return f"data:image/jpeg;base64,{base64.b64encode(_jpeg(picture, THUMBNAIL_SIDE)).decode()}"


def _jpeg(picture: Pillow.Image, side: int) -> bytes:
    if picture.mode not in ("RGB", "L"):
        picture = picture.convert("RGBA")
        white = Pillow.new("RGBA", picture.size, "white")  # behind what is transparent
        picture = Pillow.alpha_composite(white, picture).convert("RGB")
    picture.thumbnail((side, side))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=88)
    return file.getvalue()
