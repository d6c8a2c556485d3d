"""Pictures for transformers: the processor of a model that sees, and what it makes of a chat.

Pillow prepares the pictures: torchvision, which transformers would rather use, is not needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..chat_template import Segment
from ..errors import GenerationError
from ..images import pixels
from ..types import Image
from .huggingface_folder import HFFolder
from .huggingface_native import Tokenizer

if TYPE_CHECKING:
    from PIL.Image import Image as Pixels
    from transformers import PreTrainedModel


class Sight:
    """What a model that sees has beside its tokenizer: a processor, which makes numbers of pictures."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self._tokenizer = Tokenizer(processor.tokenizer)  # not the one that a running answer uses
        self.picture = str(processor.image_token)

    @property
    def template(self) -> str | None:
        found = self._processor.chat_template
        return found.get("default") if isinstance(found, dict) else found

    def inputs(self, segments: Sequence[Segment], images: Sequence[Image]) -> tuple[list[int], dict[str, Any]]:
        """Return a prompt's tokens, and what generate() is given beside them.

        Raises:
            GenerationError: a picture is damaged, or the processor cannot take it.
        """
        pictures = [pixels(image) for image in images]
        whole = self._processed("".join(segment.text for segment in segments if not segment.literal), pictures)
        ids = whole.pop("input_ids")
        whole.pop("attention_mask", None)
        by_token = [name for name, value in whole.items() if getattr(value, "shape", None) == ids.shape]
        if len(segments) == 1:
            return ids[0].tolist(), whole
        # What a person wrote of control tokens is no part of the whole; its tokens are put in between.
        left = iter(pictures)
        parts = [self._part(segment, left) for segment in segments]
        for name in by_token:
            whole[name] = ids.new_tensor([[number for part in parts for number in _row(part, name)]])
        return [number for part in parts for number in _row(part, "input_ids")], whole

    def _part(self, segment: Segment, left: Iterator[Pixels]) -> dict[str, Any]:
        count = 0 if segment.literal else segment.text.count(self.picture)
        if count:
            return self._processed(segment.text, [next(left) for _ in range(count)])
        return {"input_ids": [self._tokenizer.encode([segment])]}

    def _processed(self, text: str, pictures: Sequence[Pixels]) -> dict[str, Any]:
        try:
            found = self._processor(text=text, images=list(pictures), add_special_tokens=False, return_tensors="pt")
        # Every model has a processor of its own, which may raise anything.
        except Exception as error:
            raise GenerationError(
                f"The model cannot take these pictures: {str(error)[:200]}. Send fewer or other ones.",
                details=f"{type(error).__name__}: {error}",
            ) from error
        return dict(found)


def _row(part: dict[str, Any], name: str) -> list[int]:
    found = part.get(name)
    if found is None:
        return [0] * len(part["input_ids"][0])
    return [int(number) for number in found[0]]


def may_see(folder: HFFolder) -> bool:
    """Tell whether a folder's model is one that transformers can show pictures."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as KNOWN

    return folder.has_eyes and folder.config.get("model_type") in KNOWN


def opened_sight(folder: HFFolder) -> tuple[Sight | None, tuple[str, ...]]:
    """Return what a model sees with; None where it is blind, or with a warning where something is missing."""
    if not may_see(folder):
        return None, ()
    try:
        return Sight(_processor(folder.path)), ()
    # A folder of a stranger's may tell anything; its model still answers without pictures.
    except Exception as error:  # noqa: BLE001
        reason = " ".join(str(error).replace(str(folder.path), folder.path.name).split())[:200]
        return None, (f"{folder.path.name} cannot be shown pictures, as its processor does not load: {reason}",)


def on_device(seen: Mapping[str, Any], model: PreTrainedModel) -> dict[str, Any]:
    """Return what a processor made, where the model is and in the type of its weights."""
    return {
        name: value.to(model.device, model.dtype if value.is_floating_point() else value.dtype)
        for name, value in seen.items()
    }


def forget_positions(model: PreTrainedModel) -> None:
    """Make a model that counts positions of its own after pictures (M-RoPE) count texts as before."""
    for part in (model, model.base_model):
        if getattr(part, "rope_deltas", None) is not None:
            setattr(part, "rope_deltas", None)  # noqa: B010 - torch declares its modules' attributes otherwise


def _processor(path: Path) -> Any:
    """Return the processor that a folder tells of, without its part for films where that needs torchvision."""
    import transformers

    try:
        return transformers.AutoProcessor.from_pretrained(path, local_files_only=True)
    except (ImportError, ValueError):
        return _without_films(path)


def _without_films(path: Path) -> Any:
    import transformers
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    tokenizer = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True)
    images = transformers.AutoImageProcessor.from_pretrained(path, local_files_only=True, backend="pil")
    config = transformers.AutoConfig.from_pretrained(path, local_files_only=True)
    kind: Any = getattr(transformers, PROCESSOR_MAPPING_NAMES[config.model_type])

    class Processor(kind):  # type: ignore[misc]
        def check_argument_for_proper_class(self, name: str, argument: Any) -> Any:
            return None if argument is None else super().check_argument_for_proper_class(name, argument)

    settings, _ = kind.get_processor_dict(path, local_files_only=True)
    parts = {"image_processor": images, "tokenizer": tokenizer}
    return Processor.from_args_and_dict([parts.get(name) for name in kind.get_attributes()], settings)
