"""What a llama.cpp context holds of a prompt: cut to what the next one shares, or changed for a kept state."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..prompt_cache import PromptCache
from ..types import Message
from .llama_cpp_native import import_llama_cpp

if TYPE_CHECKING:
    from llama_cpp import Llama

SEQUENCE = 0  # the one that llama-cpp-python's `Llama` evaluates


class Context:
    """The KV cache of one loaded model.

    Args:
        capacity: bytes of RAM for the states of chats that are left.
    """

    def __init__(self, llama: Llama, capacity: int) -> None:
        self._llama, self._native = llama, import_llama_cpp()
        self._left: PromptCache[Any] = PromptCache(capacity)

    def reuse(self, prompt: Sequence[int], chat: Sequence[Message]) -> int:
        """Cut the KV cache to its common prefix with the prompt and return how many tokens that is."""
        llama = self._llama
        held = llama.input_ids[: llama.n_tokens].tolist()
        # The last token is always evaluated anew: its logits choose the first token of the answer.
        common, state = self._left.turn_to(chat, prompt[:-1], held, self)
        if state is not None and not self._restore(state, prompt[:common]):
            common = 0
        if common and (self._forgotten(common) or not llama._ctx.kv_cache_seq_rm(-1, common, -1)):
            common = 0  # recurrent models cannot go back
        if not common:
            llama.reset()
        llama.n_tokens = common
        return common

    def size(self) -> int:
        return int(self._native.llama_state_seq_get_size(self._llama.ctx, SEQUENCE))

    def copied(self) -> Any:
        import numpy as np  # llama-cpp-python brings it; unlike an array of ctypes, it is not filled with zeros first

        state = np.empty(self.size(), np.uint8)
        self._native.llama_state_seq_get_data(self._llama.ctx, _pointer(state), state.size, SEQUENCE)
        return state

    def may_be_cut(self, state: Any) -> bool:
        native, llama = self._native, self._llama
        if native.llama_model_is_recurrent(llama.model) or native.llama_model_is_hybrid(llama.model):
            return False
        return not native.llama_model_n_swa(llama.model) or bool(llama.context_params.swa_full)

    def _restore(self, state: Any, tokens: Sequence[int]) -> bool:
        llama = self._llama
        read = self._native.llama_state_seq_set_data(llama.ctx, _pointer(state), state.size, SEQUENCE)
        llama.input_ids[: len(tokens)] = tokens
        return bool(read)

    def _forgotten(self, length: int) -> bool:
        """Tell whether a sliding-window model no longer holds what tokens after `length` look back at."""
        window: int = self._native.llama_model_n_swa(self._llama.model)
        if not window:
            return False
        first = self._native.llama_memory_seq_pos_min(self._llama._ctx.memory, SEQUENCE)
        return bool(first > max(0, length - window))


def _pointer(state: Any) -> Any:
    return state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
