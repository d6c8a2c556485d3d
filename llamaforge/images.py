"""What a picture in a message may be: decided by its bytes, once, before any engine sees it.

Nothing is decoded for that; engines that run here ask for the pixels, in the process that they run in.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from .errors import BackendMissing, GenerationError
from .types import Image, Message

if TYPE_CHECKING:
    from PIL.Image import Image as Pixels

MOST_BYTES = 10 * 2**20
MOST_IMAGES = 16  # in one chat
MOST_PIXELS = 64 * 10**6  # a few kilobytes may unpack to gigabytes
DAMAGED = "A picture is damaged or incomplete. Choose another file."

_FORMATS = ("PNG", "JPEG", "WEBP")
_MOST_SEGMENTS = 10_000  # before the size of a JPEG file; an honest one has a few dozen
_JPEG_SIZES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # the markers of a frame, which tell its size
_JPEG_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers that nothing follows


def checked_images(images: Any) -> tuple[Image, ...]:
    """Return the pictures of a message, each with the type that its bytes are of.

    Raises:
        GenerationError: one is no picture of a known type, damaged or too large.
    """
    if not isinstance(images, Sequence) or not all(isinstance(i, Image) and isinstance(i.data, bytes) for i in images):
        raise GenerationError("The pictures of a message are a list of llamaforge.Image with the bytes of a file.")
    return tuple(_checked(image.data) for image in images)


def require_few_images(messages: Sequence[Message]) -> None:
    """Raise GenerationError where a chat holds more pictures than are taken."""
    count = sum(len(message.images) for message in messages)
    if count > MOST_IMAGES:
        raise GenerationError(
            f"This chat holds {count} pictures; at most {MOST_IMAGES} are taken. Start a new chat or send fewer."
        )


def media_type(data: bytes) -> str:
    """Return what a file is by its first bytes: "image/png", "image/jpeg", "image/webp", else ""."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    return "image/webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else ""


def pixels(image: Image) -> Pixels:
    """Decode a picture: upright, in red, green and blue, on white where it is transparent.

    Raises:
        GenerationError: the file is damaged.
        BackendMissing: Pillow is not installed.
    """
    try:
        from PIL import Image as pillow
        from PIL import ImageOps
    except ImportError as missing:
        raise BackendMissing(
            "Pictures need the package Pillow, which is not installed. Install it and start again: pip install pillow"
        ) from missing
    try:
        with pillow.open(io.BytesIO(image.data), formats=_FORMATS) as opened:
            upright = ImageOps.exif_transpose(opened)
            if upright.has_transparency_data:
                white = pillow.new("RGBA", upright.size, "white")
                upright = pillow.alpha_composite(white, upright.convert("RGBA"))
            return upright.convert("RGB")
    # A stranger's file: Pillow's decoders raise errors of every kind.
    except Exception as error:
        raise GenerationError(DAMAGED) from error


def _checked(data: bytes) -> Image:
    if len(data) > MOST_BYTES:
        raise GenerationError(
            f"A picture may have at most {MOST_BYTES // 2**20} MB. Make it smaller and send it again."
        )
    kind = media_type(data)
    if not kind:
        raise GenerationError("Only PNG, JPEG and WebP pictures can be sent. Save it as one of them.")
    try:
        width, height = _SIZES[kind](data)
    except (struct.error, StopIteration):
        width = height = 0
    if not width or not height:
        raise GenerationError(DAMAGED)
    if width * height > MOST_PIXELS:
        raise GenerationError(
            f"A picture has {width:,} × {height:,} pixels, which is too many. Make it smaller and send it again."
        )
    return Image(data, kind)


def _png_size(data: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def _webp_size(data: bytes) -> tuple[int, int]:
    if data[12:16] == b"VP8X":
        width, height = (int.from_bytes(data[place : place + 3], "little") + 1 for place in (24, 27))
    elif data[12:16] == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (number & 0x3FFF for number in struct.unpack_from("<HH", data, 26))
    return width, height


def _jpeg_size(data: bytes) -> tuple[int, int]:
    place = next(place for marker, place in _jpeg_segments(data) if marker in _JPEG_SIZES)
    height, width = struct.unpack_from(">HH", data, place + 3)
    return width, height


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield the marker of each segment and where its length stands."""
    place = 2
    for _ in range(_MOST_SEGMENTS):
        if data[place : place + 1] != b"\xff" or len(data) < place + 4:
            return
        marker = data[place + 1]
        if marker == 0xFF:  # a fill byte
            place += 1
        elif marker in _JPEG_ALONE:
            place += 2
        else:
            yield marker, place + 2
            place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")


_SIZES = {"image/png": _png_size, "image/jpeg": _jpeg_size, "image/webp": _webp_size}
