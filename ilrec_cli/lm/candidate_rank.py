"""Events -> rankings of their own candidates with a language model: by log-probabilities, or by what it writes freely.

Shapes: B rows, T history items, C candidates, k listed items.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ilrec_cli.lm import answers
from ilrec_cli.lm.backbone import context, refuse_longer
from ilrec_cli.lm.candidate_scores import candidate_scores
from ilrec_cli.lm.examples import Catalogue
from ilrec_cli.lm.generate import generate
from ilrec_cli.ranking import Rankings, top_k

SHORTER = (
    "Train a model that reads more, or preprocess with a smaller --max-history, fewer --candidates or shorter text"
)
# (history_BT, candidate_BC) -> prompts padded on the left: (input_BS, mask_BS)
Prompts = Callable[[np.ndarray, np.ndarray], tuple[Tensor, Tensor]]


class Written(NamedTuple):
    """What was written for each row: the candidates it names (padded with -1), and that which it contains (-1: none, or
    several), by S-DPO's rule."""

    text_B: list[str]
    item_Bk: np.ndarray
    contained_B: np.ndarray


class CandidateRanker:
    """A model in evaluation mode, the catalogue it was trained on, and how its prompts are made."""

    def __init__(
        self,
        model: Any,
        catalogue: Catalogue,
        prompts: Prompts,
        popularity_I: np.ndarray,
        *,
        scope_U: Tensor | None = None,
    ):
        """`scope_U`: the tokens that probabilities sum to one over, ascending; the whole vocabulary by default."""
        self.model, self.catalogue, self.prompts = model, catalogue, prompts
        self.popularity_I, self.scope_U = popularity_I, scope_U
        self.limit = context(model)
        self.device = next(model.parameters()).device

    def rank(self, history_BT: np.ndarray, candidate_BC: np.ndarray, *, mean: bool) -> tuple[np.ndarray, np.ndarray]:
        """(item_BC, score_BC), best first: the sum of the log-probabilities of a candidate's tokens, end token included,
        or their mean. Equal scores are ordered by training popularity, then by lower item, as everywhere."""
        prompts = self._prompts(history_BT, candidate_BC)
        candidate_BC = self.ordered(candidate_BC)
        length_BC = self.catalogue.length_I[candidate_BC]
        path_BCD = self.catalogue.token_ID[candidate_BC][:, :, : length_BC.max()].astype(np.int64)
        score_BC = candidate_scores(self.model, *prompts, path_BCD, scope_U=self.scope_U)
        if mean:
            score_BC = score_BC / torch.from_numpy(length_BC).to(score_BC)
        place_BC = top_k(score_BC, score_BC.shape[1])
        item_BC = np.take_along_axis(candidate_BC, place_BC.cpu().numpy(), 1)
        return item_BC, score_BC.gather(1, place_BC).cpu().numpy()

    def write(
        self, history_BT: np.ndarray, candidate_BC: np.ndarray, *, beams: int, tokenizer: Any, names: Sequence[str]
    ) -> Written:
        """The best free response of each row, greedy with one beam; no name is longer than what may be written."""
        prompts = self._prompts(history_BT, candidate_BC)
        end = tokenizer.eos_token_id
        longest = int(self.catalogue.length_I.max())
        token_BKT, _ = generate(self.model, *prompts, beams=beams, max_new_tokens=longest, end_token=end)
        texts = [
            tokenizer.decode(_until(row, end), clean_up_tokenization_spaces=False) for row in token_BKT[:, 0].tolist()
        ]
        return matched(texts, self.ordered(candidate_BC), names)

    def ordered(self, candidate_BC: np.ndarray) -> np.ndarray:
        """Candidates by training popularity, then by lower item."""
        order_BC = np.lexsort((candidate_BC, -self.popularity_I[candidate_BC]), axis=1)
        return np.take_along_axis(candidate_BC, order_BC, 1)

    def _prompts(self, history_BT: np.ndarray, candidate_BC: np.ndarray) -> tuple[Tensor, Tensor]:
        """On the device; `UserError` where the model has no positions for them and a name."""
        input_BS, mask_BS = self.prompts(history_BT, candidate_BC)
        refuse_longer(self.limit, input_BS.shape[1], self.catalogue.longest, SHORTER)
        return input_BS.to(self.device), mask_BS.to(self.device)


def rankings(item_Bk: np.ndarray, score_Bk: np.ndarray, target_B: np.ndarray) -> Rankings:
    """Lists with the place of each row's target, -1 where it is not listed."""
    hit_Bk = item_Bk == target_B[:, None]
    return Rankings(item_Bk, score_Bk, np.where(hit_Bk.any(1), hit_Bk.argmax(1), -1))


def matched(texts: list[str], candidate_BC: np.ndarray, names: Sequence[str]) -> Written:
    """Responses against the names of their rows' candidates."""
    item_Bk = np.full_like(candidate_BC, -1)
    contained_B = np.full(len(texts), -1, dtype=candidate_BC.dtype)
    for row, (text, candidates) in enumerate(zip(texts, candidate_BC.tolist(), strict=True)):
        offered = [names[item] for item in candidates]
        found = answers.named(text, offered)
        item_Bk[row, : len(found)] = [candidates[place] for place in found]
        only = answers.contained(text, offered)
        contained_B[row] = candidates[only] if only >= 0 else -1
    return Written(texts, item_Bk, contained_B)


def _until(tokens: list[int], end: int) -> list[int]:
    """The tokens before the end token or the padding."""
    return [token for token in tokens[: tokens.index(end) if end in tokens else None] if token >= 0]
