"""Continuations of prompts as branches of one tree: each prompt is run once, its cache is neither copied nor reordered.

A step feeds several tokens per prompt. Its attention mask shows each of them the prompt and its own ancestors:

    prompt tokens    a b | c d e        a and b continue the prompt, c and d continue a, e continues b
    c sees  x x x x  x . | x . .
    d sees  x x x x  x . | . x .
    e sees  x x x x  . x | . . x

Shapes: B prompts, S prompt tokens, W new tokens per prompt, D width, T tree tokens so far.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ilrec_cli import devices
from ilrec_cli.lm import masks
from ilrec_cli.lm.logits import language_model
from ilrec_cli.lm.model import SupervisedLM, decoder

WORTH_SHARING = 4  # first tokens that all prompts have in common
# Whether a stack of blocks takes a mask of a tree: found out once, and a matter of the architecture, not the weights.
_TAKES_TREES: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def open_prompts(model: Any, input_ids_BS: Tensor, attention_mask_BS: Tensor, room: int) -> Tree | Copies:
    """Run the prompts (padded on the left), ready for `room` tokens behind each of them."""
    stack = decoder(language_model(model))
    if stack not in _TAKES_TREES:
        SupervisedLM(language_model(model)).check_phi()
        _TAKES_TREES[stack] = takes_trees(model)
        if not _TAKES_TREES[stack]:
            warnings.warn(
                f"decode: {type(language_model(model)).__name__} takes no mask of a tree; its cache is copied for every "
                "beam, which is slower and needs more memory",
                stacklevel=2,
            )
    if _TAKES_TREES[stack]:
        return Tree(model, input_ids_BS, attention_mask_BS, room)
    return Copies(model, input_ids_BS, attention_mask_BS)


@torch.inference_mode()
def takes_trees(model: Any) -> bool:
    """Tried out: whether branches behind two short prompts have the hidden states of sequences run one by one."""
    stack = decoder(language_model(model))
    if not masks.layer_kinds(stack.config)[0] <= masks.KNOWN_KINDS:
        return False  # kinds that a short trial may not tell apart
    was_training = stack.training
    stack.eval()
    device = language_model(model).get_input_embeddings().weight.device
    ids_BS, mask_BS = torch.arange(1, 7, device=device).view(2, 3), torch.ones(2, 3, dtype=torch.long, device=device)
    mask_BS[0, 0] = 0
    token_W = torch.arange(1, 5, device=device)  # two below the prompt, one below each of these
    try:
        tree = Tree(model, ids_BS, mask_BS, 4)
        tree.extend(token_W[:2].expand(2, -1), token_W.new_zeros(2, 2))
        found = tree.extend(token_W[2:].expand(2, -1), torch.tensor([[1, 0]] * 2, device=device))
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        if devices.out_of_memory(error):  # says nothing about the architecture
            raise
        return False
    finally:
        stack.train(was_training)
    tolerance = 1e-3 if found.dtype == torch.float32 else 0.05
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        prompt = ids_BS[row, 1 - row :]
        path = torch.cat([prompt, token_W[[1 - column, 2 + column]]])[None]
        expected = stack(input_ids=path, use_cache=False).last_hidden_state[0, -1]
        if not (found[row, column] - expected).abs().max() <= tolerance * expected.abs().max().clamp(min=1e-3):
            return False
    return True


class Tree:
    """Hidden states of a tree of tokens behind each prompt. `last_BD` is the state after the prompts."""

    def __init__(self, model: Any, input_ids_BS: Tensor, attention_mask_BS: Tensor, room: int):
        from ilrec_cli.lm import cache

        self.stack = decoder(language_model(model))
        self.cache = cache.roomy(room)
        self.length_B1 = attention_mask_BS.sum(-1, keepdim=True)
        self.ancestors_BWT: Tensor | None = None
        self.depth = 0
        lead = self._shared(input_ids_BS, attention_mask_BS)
        if lead:
            first = input_ids_BS[:1, attention_mask_BS[0].bool()][:, :lead]
            self.stack(input_ids=first, past_key_values=self.cache, use_cache=True)
            for layer in self.cache.layers:
                layer.spread(len(input_ids_BS))
            input_ids_BS, attention_mask_BS = _without(input_ids_BS, attention_mask_BS, lead)
        self.prompt_BS = torch.nn.functional.pad(attention_mask_BS, (lead, 0), value=1).bool()
        self.position_BT = (self.prompt_BS.cumsum(-1) - 1).clamp(min=0)  # of every token in the cache
        output = self.stack(
            input_ids=input_ids_BS, attention_mask=self.prompt_BS.long(), position_ids=self.position_BT[:, lead:],
            past_key_values=self.cache, use_cache=True,
        )  # fmt: skip
        self.last_BD = output.last_hidden_state[:, -1]

    def extend(self, token_BW: Tensor, parent_BW: Tensor) -> Tensor:
        """One more level: each token below column `parent_BW` of the level before; hidden_BWD after each."""
        rows, width = token_BW.shape
        own = torch.eye(width, dtype=torch.bool, device=token_BW.device).expand(rows, width, width)
        if self.ancestors_BWT is None:
            self.ancestors_BWT = own
        else:
            depth_T = self.ancestors_BWT.shape[-1]
            inherited = self.ancestors_BWT.gather(1, parent_BW[:, :, None].expand(rows, width, depth_T))
            self.ancestors_BWT = torch.cat([self._pruned(inherited), own], -1)
        position_BW = (self.length_B1 + self.depth).expand(rows, width)
        self.depth += 1
        self.position_BT = torch.cat([self.position_BT, position_BW], 1)
        return self._feed(token_BW, position_BW, self.ancestors_BWT)

    def branches(self, token_W: Tensor, depth_W: Tensor, ancestors_WW: Tensor) -> Tensor:
        """A whole subtree at once below every prompt, forgotten afterwards; hidden_BWD after each token.

        ancestors_WW[i, j]: whether token j lies on the way from the prompt to token i, itself included. Tokens and
        ancestors are the same for all prompts, or have a first axis for those of each prompt.
        """
        rows, prompt = self.prompt_BS.shape
        position_BW = self.length_B1 + depth_W
        kept, self.position_BT = self.position_BT, torch.cat([self.position_BT, position_BW], 1)
        hidden = self._feed(token_W.expand(rows, -1), position_BW, ancestors_WW.expand(rows, -1, -1))
        self.position_BT = kept
        for layer in self.cache.layers:
            layer.crop_to(prompt)
        return hidden

    def select(self, row_B: Tensor) -> None:
        """Go on with some of the prompts only."""
        self.prompt_BS, self.length_B1 = self.prompt_BS[row_B], self.length_B1[row_B]
        self.position_BT = self.position_BT[row_B]
        if self.ancestors_BWT is not None:
            self.ancestors_BWT = self.ancestors_BWT[row_B]
        for layer in self.cache.layers:
            layer.select(row_B)

    def _pruned(self, ancestors_BWT: Tensor) -> Tensor:
        """Forget tokens that are nobody's ancestors any more, once they are the greater part of the tree."""
        alive_BT = ancestors_BWT.any(1)
        most = int(alive_BT.sum(1).max())
        if 2 * most > alive_BT.shape[1]:
            return ancestors_BWT
        column_BM = torch.argsort((~alive_BT).int(), dim=1, stable=True)[:, :most]
        prompt = self.prompt_BS.shape[1]
        for layer in self.cache.layers:
            layer.keep(prompt, column_BM)
        kept = self.position_BT[:, prompt:].gather(1, column_BM)
        self.position_BT = torch.cat([self.position_BT[:, :prompt], kept], 1)
        return ancestors_BWT.gather(2, column_BM[:, None].expand(-1, ancestors_BWT.shape[1], -1))

    def _shared(self, input_ids_BS: Tensor, mask_BS: Tensor) -> int:
        """How many first tokens of all prompts are the same and worth a run of their own; one is left to each prompt."""
        _, window = masks.layer_kinds(self.stack.config)
        if len(input_ids_BS) == 1 or (window is not None and mask_BS.shape[1] >= window):
            return 0  # where windows count places in the cache, padding between lead and rest would count too
        shortest = int(self.length_B1.min())
        place_BT = mask_BS.shape[1] - self.length_B1 + torch.arange(shortest - 1, device=mask_BS.device)
        token_BT = input_ids_BS.gather(1, place_BT)
        same = int((token_BT == token_BT[:1]).all(0).long().cumprod(0).sum())
        return same if same >= WORTH_SHARING else 0

    def _feed(self, token_BW: Tensor, position_BW: Tensor, ancestors_BWT: Tensor) -> Tensor:
        rows, width = token_BW.shape
        prompt = self.prompt_BS[:, None].expand(rows, width, self.prompt_BS.shape[1])
        seen_BWT = torch.cat([prompt, ancestors_BWT], -1)
        mask = masks.for_layers(self.stack.config, seen_BWT, position_BW, self.position_BT, self.last_BD.dtype)
        output = self.stack(
            input_ids=token_BW, attention_mask=mask, position_ids=position_BW, past_key_values=self.cache,
            use_cache=True,
        )  # fmt: skip
        return output.last_hidden_state


class Copies:
    """The same for architectures that take no mask of a tree: the cache is copied for every branch, as `generate` does."""

    def __init__(self, model: Any, input_ids_BS: Tensor, attention_mask_BS: Tensor):
        from ilrec_cli.lm import cache

        self.stack = decoder(language_model(model))
        self.cache = cache.models_own(self.stack.config)
        self.mask_BS, self.width = attention_mask_BS, 1
        position_BS = (attention_mask_BS.cumsum(-1) - 1).clamp(min=0)
        output = self.stack(
            input_ids=input_ids_BS, attention_mask=attention_mask_BS, position_ids=position_BS,
            past_key_values=self.cache, use_cache=True,
        )  # fmt: skip
        self.last_BD = output.last_hidden_state[:, -1]

    def extend(self, token_BW: Tensor, parent_BW: Tensor) -> Tensor:
        rows, width = token_BW.shape
        first_B1 = torch.arange(rows, device=token_BW.device)[:, None] * self.width
        copied = (first_B1 + parent_BW).flatten()
        self.cache.batch_select_indices(copied)
        self.mask_BS = torch.nn.functional.pad(self.mask_BS.index_select(0, copied), (0, 1), value=1)
        self.width = width
        output = self.stack(
            input_ids=token_BW.reshape(-1, 1), attention_mask=self.mask_BS, past_key_values=self.cache,
            position_ids=self.mask_BS.sum(1, keepdim=True) - 1, use_cache=True,
        )  # fmt: skip
        return output.last_hidden_state.view(rows, width, -1)

    def branches(self, token_W: Tensor, depth_W: Tensor, ancestors_WW: Tensor) -> Tensor:
        """As `Tree.branches`, level by level on a copy of the cache; tokens are ordered by depth."""
        kept = (copy.deepcopy(self.cache), self.mask_BS, self.width)
        rows, parts, above = len(self.mask_BS), [], slice(0, 0)
        for depth in torch.unique(depth_W).tolist():
            level_W = (depth_W == depth).nonzero()[:, 0]
            level = slice(int(level_W[0]), int(level_W[-1]) + 1)
            parent_W = ancestors_WW[..., level, above].int().argmax(-1) if depth else torch.zeros_like(level_W)
            parts.append(self.extend(token_W[..., level].expand(rows, -1), parent_W.expand(rows, -1)))
            above = level
        self.cache, self.mask_BS, self.width = kept
        return torch.cat(parts, 1)

    def select(self, row_B: Tensor) -> None:
        columns = torch.arange(self.width, device=row_B.device)
        kept = (row_B[:, None] * self.width + columns).flatten()
        self.cache.batch_select_indices(kept)
        self.mask_BS = self.mask_BS.index_select(0, kept)


def _without(input_ids_BS: Tensor, mask_BS: Tensor, lead: int) -> tuple[Tensor, Tensor]:
    """Prompts padded on the left, less their first `lead` tokens."""
    begun_BS = mask_BS.cumsum(1) > lead
    start = int(begun_BS.int().argmax(1).min())
    return input_ids_BS[:, start:], begun_BS[:, start:].long()
