"""A key-value cache with room for the tokens to come, so that a step writes its own and copies nothing."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


class RoomyLayer(DynamicLayer):  # type: ignore[misc]  # transformers is untyped here
    """All tokens of one layer, whatever window it has, in one block that is written in place."""

    keys: Tensor
    values: Tensor

    def __init__(self, room: int = 0, **settings: Any):
        super().__init__(**settings)
        self.room = room
        self._blocks: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append; views of everything so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, new = self.get_seq_length(), key_states.shape[-2]
        end = start + new
        if self._blocks is None or self._blocks[0].shape[-2] < end:
            self._blocks = self._larger(key_states, end + self.room), self._larger(value_states, end + self.room)
            if start:
                self._blocks[0][..., :start, :] = self.keys
                self._blocks[1][..., :start, :] = self.values
        keys, values = self._blocks
        keys[..., start:end, :], values[..., start:end, :] = key_states, value_states
        self._show(end)
        return self.keys, self.values

    def spread(self, rows: int) -> None:
        """Give the one row that was run to `rows` prompts."""
        assert self._blocks is not None
        length = self.get_seq_length()
        keys, values = (block.expand(rows, *block.shape[1:]).clone() for block in self._blocks)
        self._blocks = keys, values
        self._show(length)

    def keep(self, first: int, column_BM: Tensor) -> None:
        """Of the tokens from `first` on, keep some of each row, by their place after `first`."""
        assert self._blocks is not None
        kept = first + column_BM.shape[1]
        for block in self._blocks:
            index = column_BM[:, None, :, None].expand(-1, block.shape[1], -1, block.shape[3])
            block[..., first:kept, :] = block[..., first:, :].gather(2, index)
        self._show(kept)

    def crop_to(self, length: int) -> None:
        """Forget all tokens beyond the first `length`."""
        self._show(length)

    def select(self, row_B: Tensor) -> None:
        """Keep some rows."""
        length = self.get_seq_length()
        assert self._blocks is not None
        keys, values = self._blocks
        self._blocks = keys.index_select(0, row_B), values.index_select(0, row_B)
        self._show(length)

    def _show(self, length: int) -> None:
        assert self._blocks is not None
        self.keys, self.values = (block[..., :length, :] for block in self._blocks)

    @staticmethod
    def _larger(states: Tensor, length: int) -> Tensor:
        return states.new_empty(*states.shape[:-2], length, states.shape[-1])


def roomy(room: int) -> Any:
    """A cache whose every layer keeps all tokens, with room for `room` after the first pass."""
    return Cache(layer_class_to_replicate=partial(RoomyLayer, room=room))


def models_own(config: Any) -> Any:
    """The cache that the architecture asks for, windows and states included."""
    from transformers import DynamicCache

    return DynamicCache(config=config)
