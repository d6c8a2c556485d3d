"""Pictures that a person attaches are decoded and written anew; what is none is a sentence."""

from __future__ import annotations

import base64
import io
import json

import pytest
from PIL import Image as Pillow

from llamaforge_ui import pictures
from llamaforge_ui.pictures import LONGEST_SIDE, MOST_PICTURES, CannotRead, clean_picture, read_pictures, thumbnail


def file_of(form: str, size: tuple[int, int] = (40, 30), mode: str = "RGB", **options: object) -> bytes:
    file = io.BytesIO()
    Pillow.new(mode, size, "teal" if mode == "RGB" else 0).save(file, form, **options)
    return file.getvalue()


def url(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_a_picture_becomes_a_jpeg(form: str) -> None:
    (image,) = read_pictures(json.dumps([url(file_of(form))]))
    with Pillow.open(io.BytesIO(image.data)) as read:
        assert (read.format, read.size) == ("JPEG", (40, 30))
    assert image.media_type == "image/jpeg"


def test_nothing_attached_is_no_picture() -> None:
    assert read_pictures("") == ()


def test_a_large_picture_is_made_smaller() -> None:
    image = clean_picture(file_of("PNG", (4000, 1000)))
    with Pillow.open(io.BytesIO(image.data)) as read:
        assert read.size == (LONGEST_SIDE, LONGEST_SIDE // 4)


def test_place_and_camera_do_not_leave_the_computer() -> None:
    exif = Pillow.Exif()
    exif[0x010F] = "My camera"
    assert b"My camera" in file_of("JPEG", exif=exif)
    assert b"My camera" not in clean_picture(file_of("JPEG", exif=exif)).data


def test_what_is_transparent_is_white() -> None:
    image = clean_picture(file_of("PNG", mode="RGBA"))
    with Pillow.open(io.BytesIO(image.data)) as read:
        assert read.getpixel((5, 5)) == (255, 255, 255)


def test_a_thumbnail_is_small() -> None:
    assert len(thumbnail(clean_picture(file_of("PNG", (3000, 3000))))) < 20_000


@pytest.mark.parametrize(
    "text",
    [
        "no JSON",
        "42",
        '["no address"]',
        "[42]",
        json.dumps(["data:image/png;base64,!!!"]),
        json.dumps([url(b"<svg onload=alert(1)>", "svg")]),
        json.dumps([url(file_of("PNG")[:60])]),
        json.dumps([url(b"GIF89a" + b"\0" * 20)]),
        json.dumps([url(file_of("PNG"))] * (MOST_PICTURES + 1)),
    ],
    ids=["no JSON", "number", "no URL", "no text", "no base64", "SVG", "cut", "broken", "many"],
)
def test_what_is_no_picture_is_a_sentence(text: str) -> None:
    with pytest.raises(CannotRead):
        read_pictures(text)


def test_a_picture_of_too_many_pixels_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "LARGEST_PIXELS", 1000)
    with pytest.raises(CannotRead, match="megapixels"):
        clean_picture(file_of("PNG"))


def test_a_file_that_is_too_large_is_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "LARGEST_BYTES", 10)
    with pytest.raises(CannotRead, match="too large"):
        clean_picture(file_of("PNG"))
