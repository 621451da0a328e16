"""Walks down the trie: the log-probabilities of what continues each beam, from as few model evaluations as possible.

Shapes: B prompts, K beams, W beams that are fed to the model, C children of a node, N beams fed in all, D width, U tokens.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from ilrec_cli.errors import UserError
from ilrec_cli.lm.logits import Logits
from ilrec_cli.lm.tree import open_prompts
from ilrec_cli.trie import ItemTrie

Normalize = Literal["vocab", "ids", "trie"]


class Walk:
    """Beams on their way through a trie. It starts at the root, with one beam for each prompt."""

    def __init__(self, model: Any, prompts: tuple[Tensor, Tensor], trie: ItemTrie, normalize: Normalize, beams: int):
        input_ids_BS, attention_mask_BS = prompts
        self.trie, self.normalize = trie, normalize
        self.logits = Logits(model)
        self.prompts = open_prompts(model, input_ids_BS, attention_mask_BS, beams * (trie.max_depth - 1))
        self.token_U = trie.tokens()
        if int(self.token_U[-1]) >= self.logits.vocabulary:
            raise UserError(
                f"decode: items use token {int(self.token_U[-1])}, the model has {self.logits.vocabulary}; "
                "the identifiers or the tokenizer belong to another model"
            )
        self._place_V = self.token_U.new_zeros(int(self.token_U[-1]) + 1)
        self._place_V[self.token_U] = torch.arange(len(self.token_U), device=self.token_U.device)
        self._hidden_ND = self.prompts.last_BD
        self._fed_BK = torch.ones(len(input_ids_BS), 1, dtype=torch.bool, device=input_ids_BS.device)
        self._slot_BK = self._fed_BK.long() - 1  # which fed beam each one is

    def log_prob(self, token_BKC: Tensor) -> Tensor:
        """log_prob_BKC of every child of each beam's node; where the token is -1 the value means nothing.

        What is alone below its node has probability 1 over the trie, for which the model is not asked.
        """
        log_prob_BKC = torch.zeros(token_BKC.shape, device=token_BKC.device)
        if len(self._hidden_ND):
            log_prob_BKC[self._fed_BK] = self._of_fed(token_BKC[self._fed_BK])
        return log_prob_BKC

    def advance(self, node_BK: Tensor, token_BK: Tensor, parent_BK: Tensor) -> None:
        """Go to the nodes given, each by its token from beam `parent_BK`; node -1 is dead and costs nothing."""
        fed_BK = node_BK >= 0
        if self.normalize == "trie":
            fed_BK &= ~self.trie.is_settled(node_BK)
        slot_BK = self._slot_BK.gather(1, parent_BK)
        width = int(fed_BK.sum(1).max())
        self._fed_BK, self._slot_BK = fed_BK, (fed_BK.cumsum(1) - 1).clamp(min=0)
        if not width:
            self._hidden_ND = self._hidden_ND[:0]
            return
        column_BW = torch.argsort((~fed_BK).int(), dim=1, stable=True)[:, :width]
        hidden_BWD = self.prompts.extend(token_BK.gather(1, column_BW), slot_BK.gather(1, column_BW))
        self._hidden_ND = hidden_BWD[fed_BK.gather(1, column_BW)]

    def select(self, row_B: Tensor) -> None:
        """Go on with some of the prompts only; `advance` comes next."""
        self._slot_BK = self._slot_BK[row_B]
        self.prompts.select(row_B)

    def _of_fed(self, token_NC: Tensor) -> Tensor:
        place_NC = self._place_V[token_NC.clamp(min=0)]
        real_NC = token_NC >= 0
        if self.normalize == "ids":
            logits_NU = self.logits.rows(self._hidden_ND, self.token_U)
            return logits_NU.gather(1, place_NC) - logits_NU.logsumexp(1, keepdim=True)
        present_U = torch.zeros(len(self.token_U), dtype=torch.bool, device=token_NC.device)
        present_U[place_NC[real_NC]] = True
        column_U = present_U.cumsum(0) - 1
        chosen_NC = self.logits.rows(self._hidden_ND, self.token_U[present_U])
        chosen_NC = chosen_NC.gather(1, column_U[place_NC].clamp(min=0))
        if self.normalize == "vocab":
            return chosen_NC - self.logits.logsumexp(self._hidden_ND)[:, None]
        return chosen_NC.masked_fill(~real_NC, torch.finfo(chosen_NC.dtype).min).log_softmax(1)


def children(trie: ItemTrie, node_BK: Tensor) -> tuple[Tensor, Tensor]:
    """(token_BKC, node_BKC) of every child, padded with -1."""
    token, child = trie.children(node_BK.flatten())
    return token.view(*node_BK.shape, -1), child.view(*node_BK.shape, -1)
