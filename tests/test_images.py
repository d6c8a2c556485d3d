"""Pictures in a chat: which may be sent, to which models, and that they arrive as they were."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import picture_kit
import pytest
from picture_kit import clear, noise, picture, shown
from PIL import Image as Pillow
from worker_kit import isolated, result_of

from llamaforge import GenerationError, Image, LlamaForge, Message, NoVision, images, register_backend, worker_backend

Seeing = Callable[..., LlamaForge]


@pytest.fixture(params=[False, True], ids=["near", "far"])
def seeing(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Seeing]:
    """Load a model that sees pictures, or a blind one, in this process or in a worker."""
    register_backend("seeing", picture_kit.PLACE)
    with isolated(tmp_path, isolate=request.param) as forge:

        def load(path: str = "seeing") -> LlamaForge:
            forge.add_model("eyes", path, "seeing")
            forge.load_model("eyes")
            return forge

        yield load


@pytest.fixture
def sight(tmp_path: Path) -> Iterator[LlamaForge]:
    """A loaded model that sees pictures."""
    register_backend("seeing", picture_kit.PLACE)
    with isolated(tmp_path, isolate=False) as forge:
        forge.add_model("eyes", "seeing", "seeing")
        forge.load_model("eyes")
        yield forge


def test_pictures_arrive_as_they_were_with_every_message(seeing: Seeing) -> None:
    forge = seeing()
    chat = [
        Message("user", "Two", (picture("red"), picture("blue", form="JPEG"))),
        Message("assistant", "I see."),
        Message("user", "And now?", (picture("green", form="WEBP"),)),
    ]
    assert forge.status.sees_images
    assert forge.chat(chat) == shown(chat)


def test_a_model_that_cannot_see_is_not_asked(seeing: Seeing) -> None:
    forge = seeing("blind")
    assert not forge.status.sees_images
    with pytest.raises(
        NoVision, match="^eyes cannot see pictures. Load a model that can .*, or send the message with"
    ):
        forge.chat([Message("user", "Before", (picture(),)), Message("user", "What is it?")])
    assert forge.chat([Message("user", "Without")]) == "Without []"


def test_a_message_may_be_a_mapping_with_pictures(sight: LlamaForge) -> None:
    answer = sight.chat([{"role": "user", "content": "Look", "images": [picture()]}])
    assert answer == shown([Message("user", "Look", (picture(),))])


@pytest.mark.parametrize("given", ["cat.png", [b"\x89PNG"], [Image("text")], 3], ids=repr)  # type: ignore[arg-type]
def test_what_is_no_picture_object_is_refused(sight: LlamaForge, given: Any) -> None:
    with pytest.raises(GenerationError, match="pictures of a message are a list of llamaforge.Image"):
        sight.chat([{"role": "user", "content": "Look", "images": given}])


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_the_bytes_decide_what_a_picture_is(sight: LlamaForge, form: str) -> None:
    made = picture(form=form)
    answer = sight.chat([Message("user", "Look", (Image(made.data, "text/html"),))])
    assert answer == shown([Message("user", "Look", (made,))])


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("PNG", {}),
        ("JPEG", {}),
        ("JPEG", {"progressive": True, "comment": b"\xff\xc0" * 9}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"exif": b"Exif\0\0"}),
    ],
    ids=str,
)
def test_a_picture_of_too_many_pixels_is_refused(form: str, options: dict[str, Any]) -> None:
    small, large = (picture(size=size, form=form, **options) for size in ((8000, 7), (8000, 16)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "MOST_PIXELS", 100_000)
        images.checked_images([small])
        with pytest.raises(GenerationError, match="A picture has 8,000 × 16 pixels, which is too many"):
            images.checked_images([large])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "Only PNG, JPEG and WebP"),
        (b"GIF89a" + bytes(40), "Only PNG, JPEG and WebP"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "Only PNG, JPEG and WebP"),
        (picture().data[:12], "damaged or incomplete"),
        (picture().data[:16] + bytes(30), "damaged or incomplete"),
        (picture(form="JPEG").data[:30], "damaged or incomplete"),
        (b"\xff\xd8" + b"\xff" * 5000, "damaged or incomplete"),
        (picture(form="WEBP").data[:20], "damaged or incomplete"),
        (picture().data + bytes(images.MOST_BYTES), "at most 10 MB"),
    ],
    ids=["empty", "gif", "svg", "short png", "png of no size", "short jpeg", "jpeg of ff", "short webp", "too large"],
)
def test_what_cannot_be_a_picture_is_refused_with_what_to_do(sight: LlamaForge, data: bytes, reason: str) -> None:
    with pytest.raises(GenerationError, match=reason):
        sight.chat([Message("user", "Look", (Image(data),))])


def test_a_chat_takes_sixteen_pictures_and_not_one_more(sight: LlamaForge) -> None:
    eight = Message("user", "Eight", (picture(),) * 8)
    assert sight.chat([eight, eight]) == shown([eight, eight])
    with pytest.raises(GenerationError, match="This chat holds 17 pictures; at most 16 are taken"):
        sight.chat([eight, eight, Message("user", "One more", (picture(),))])


def test_pictures_too_large_for_the_pipe_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_backend, "LONGEST_LINE", 100_000)
    register_backend("seeing", picture_kit.PLACE)
    with isolated(tmp_path) as forge:
        forge.add_model("eyes", "seeing", "seeing")
        forge.load_model("eyes")
        error = result_of(forge.chat_stream([Message("user", "Look", (noise((200, 200)),))])).error
        assert isinstance(error, GenerationError) and "too long" in str(error)
        assert forge.chat([Message("user", "Look", (noise((100, 100)),))]).startswith("Look ['image/png")


def test_pixels_are_upright_and_white_where_there_are_none() -> None:
    turned = Pillow.Exif()
    turned[274] = 6  # the camera was held upright
    assert images.pixels(picture("red", (20, 10), "JPEG", exif=turned)).size == (10, 20)
    assert images.pixels(clear()).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_a_picture_that_ends_early_has_no_pixels(form: str) -> None:
    data = noise((64, 64)).data if form == "PNG" else picture("red", (640, 640), form, quality=95).data
    with pytest.raises(GenerationError, match="A picture is damaged or incomplete"):
        images.pixels(Image(data[: len(data) // 2]))
