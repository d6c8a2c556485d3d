"""What a model's cache holds of a prompt: cut to what the next one shares, or changed for one that was kept."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..prompt_cache import PromptCache
from ..types import Message

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class Context:
    """The keys and values of one loaded model, in a DynamicCache; None for a model that has a cache of its own sort.

    Args:
        capacity: bytes of RAM for the caches of chats that are left; those of a GPU are moved there.
    """

    def __init__(self, model: PreTrainedModel, capacity: int) -> None:
        self._model = model
        self._tokens: list[int] = []  # whose keys and values the cache holds
        self._left: PromptCache[Any] = PromptCache(capacity)
        self.cache: Any = None

    def reuse(self, prompt: Sequence[int], chat: Sequence[Message]) -> int:
        """Cut the cache to its common prefix with the prompt and return how many tokens that is."""
        # The last token is always evaluated anew: its logits choose the first token of the answer.
        common, kept = self._left.turn_to(chat, prompt[:-1], self._tokens, self)
        if kept is not None:
            self.cache = _moved(kept, to_ram=False)
        surplus = self.cache.get_seq_length() - common if self.cache is not None else 0
        if self.cache is None or not common or (surplus and not self._cropped(surplus)):
            self.cache, common = _new_cache(self._model), 0
        self._tokens = []  # until it is known what this answer adds
        return common

    def remember(self, tokens: Sequence[int]) -> None:
        """Note the tokens that were evaluated, the last ones perhaps not."""
        self._tokens = list(tokens[: self.cache.get_seq_length()]) if self.cache is not None else []

    def forget(self) -> None:
        """Let go of a cache of which nobody knows what it holds."""
        self.cache, self._tokens = None, []

    def size(self) -> int:
        return sum(tensor.nbytes for layer in self.cache.layers for tensor in _tensors(vars(layer)))

    def copied(self) -> Any:
        # Keys and values are replaced and never written to, so that a copy shares them.
        return _moved(self.cache, to_ram=True)

    def may_be_cut(self, state: Any) -> bool:
        return bool(getattr(state, "is_croppable", False)) and not any(map(_is_one_way, state.layers))

    def _cropped(self, surplus: int) -> bool:
        """Take the last tokens out of the cache, where that is possible."""
        if not self.may_be_cut(self.cache):
            return False
        self.cache.crop(-surplus)
        return True


def _new_cache(model: PreTrainedModel) -> Any:
    from transformers import DynamicCache

    return DynamicCache(config=model.config) if model._supports_default_dynamic_cache() else None


def _moved(cache: Any, *, to_ram: bool) -> Any:
    """Return a cache with layers of its own, moved to RAM, or back to where its layers belong."""
    moved = copy.copy(cache)
    moved.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in moved.layers:
        layer.offload() if to_ram else layer.prefetch()
    return moved


def _is_one_way(layer: Any) -> bool:
    """Tell whether a layer has lost what stood before its last tokens, though transformers calls it croppable."""
    full = bool(getattr(layer, "is_sliding", False)) and layer.get_seq_length() >= layer.sliding_window
    return full or hasattr(layer, "conv_states")


def _tensors(values: Mapping[Any, Any]) -> Iterator[torch.Tensor]:
    """Yield the tensors of a layer: keys and values, and the states of recurrent ones, which it has in dicts."""
    import torch

    for value in values.values():
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, dict):
            yield from _tensors(value)
