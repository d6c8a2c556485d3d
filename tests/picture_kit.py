"""Pictures for tests, and a backend that tells what it is shown."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image as Pillow

from llamaforge import BaseBackend, Image, Message

PLACE = "picture_kit:SeeingBackend"


def picture(colour: str = "red", size: tuple[int, int] = (32, 32), form: str = "PNG", **options: Any) -> Image:
    """Return a picture of one colour; the form is one of Pillow's."""
    return _saved(Pillow.new("RGB", size, colour), form, **options)


def clear(size: tuple[int, int] = (32, 32)) -> Image:
    """Return a picture that nothing is on."""
    return _saved(Pillow.new("RGBA", size), "PNG")


def noise(size: tuple[int, int], seed: int = 1) -> Image:
    """Return a picture that no compression makes smaller."""
    width, height = size
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return _saved(Pillow.fromarray(pixels), "PNG")


def _saved(image: Pillow.Image, form: str, **options: Any) -> Image:
    file = io.BytesIO()
    image.save(file, form, **options)
    return Image(file.getvalue(), f"image/{form.lower()}")


class SeeingBackend(BaseBackend):
    """Tells what it is shown; whether it can see is the path of its model."""

    def load_model(self, model_path: str, parameters: Mapping[str, Any] | None = None) -> None:
        self.sees_images = model_path == "seeing"

    def is_model_loaded(self) -> bool:
        return True

    def generate_stream(self, prompt: str, parameters: Mapping[str, Any] | None = None) -> Iterator[str]:
        yield prompt

    def chat_stream(self, messages: Sequence[Message], parameters: Mapping[str, Any] | None = None) -> Iterator[str]:
        yield shown(messages)


def shown(messages: Sequence[Message]) -> str:
    """Return what SeeingBackend says of a chat."""
    seen = ([f"{image.media_type} {zlib.crc32(image.data)}" for image in message.images] for message in messages)
    return " | ".join(f"{message.content} {images}" for message, images in zip(messages, seen, strict=True))
