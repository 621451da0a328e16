"""Events -> rankings with a language model: prompts, beam search, leaves to items."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch

from ilrec_cli.histories import Sequences, histories, targets
from ilrec_cli.lm.allowed import Allowed
from ilrec_cli.lm.backbone import context, refuse_longer
from ilrec_cli.lm.decode import StepScores, beam_search, expand
from ilrec_cli.lm.early_exit import early_exit
from ilrec_cli.lm.exact import exact_scores
from ilrec_cli.lm.examples import Catalogue, Layout
from ilrec_cli.lm.generate import generate
from ilrec_cli.lm.guidance import Guide
from ilrec_cli.lm.heads import LayerHeads
from ilrec_cli.lm.thoughts import likeliest
from ilrec_cli.lm.walk import Normalize
from ilrec_cli.ranking import LISTED, Rankings, no_rankings, rank_in, top_k

SHORTER = "Train a model that reads more, or on shorter histories (ilrec preprocess --max-history)"


class Ranker:
    """A model with the catalogue and the layout it was trained in; ranks items for histories."""

    def __init__(
        self,
        model: Any,
        catalogue: Catalogue,
        layout: Layout,
        popularity_I: np.ndarray,
        *,
        beams: int,
        normalize: Normalize = "vocab",
        length_penalty: float = 0.0,
        exit_layer: int | None = None,
        heads: LayerHeads | None = None,
        guide: Guide | None = None,
    ):
        """`exit_layer`: rank with that layer's logits (eq. 2), running only the blocks up to it; by its own head in `heads`.

        `guide`: a collaborative model that has a say in every step of `rank`.
        """
        own = heads.of(exit_layer) if heads is not None and exit_layer is not None else None
        self.model = model if exit_layer is None else early_exit(model, exit_layer, own)
        self.catalogue, self.layout = catalogue, layout
        self.beams, self.guide = beams, guide
        self.scoring: dict[str, Any] = {"normalize": normalize, "length_penalty": length_penalty}
        self.limit = context(model)
        self.device = next(model.parameters()).device
        self.trie = catalogue.trie.to(self.device)
        self.popularity_I = torch.from_numpy(popularity_I).to(self.device)

    def check(self, history_T: np.ndarray, where: str = "") -> None:
        """`UserError`, beginning with `where`, if `rank` would refuse this history for its length."""
        longest, around = self.catalogue.longest, len(self.layout.lead) + len(self.layout.tail) + self.layout.thought
        at_most = around + len(history_T) * (longest + 1 + len(self.layout.separator))
        if self.limit is not None and at_most + longest > self.limit:
            input_BS, _ = self.layout.prompts(self.catalogue, history_T[None])
            refuse_longer(self.limit, input_BS.shape[1] + self.layout.thought, longest, SHORTER, where)

    def rank(
        self, history_BT: np.ndarray, k: int, allowed_BI: torch.Tensor | None = None, user_B: np.ndarray | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(item_Bk, score_Bk), best first, padded with -1 and -inf. Items of one identifier share its score.

        `allowed_BI`: the items that may be listed in each row; all by default. `user_B`: for guides that know users.
        """
        allowed = None if allowed_BI is None else Allowed(self.trie, allowed_BI)
        steps = [] if self.guide is None else [self._guided(self.guide, history_BT, user_B)]
        steps += [] if allowed is None else [allowed.step_scores]
        leaf_BK, score_BK = beam_search(
            self.model, *self._prompts(history_BT, self.catalogue.longest), self.trie, beams=self.beams, step_scores=_one_after_another(steps),
            **self.scoring,
        )  # fmt: skip
        return self._items(leaf_BK, score_BK, k, allowed)

    def write(self, history_BT: np.ndarray, *, beams: int, max_new_tokens: int, end_token: int) -> torch.Tensor:
        """token_BT: the best free response to each history by `generate`, end token included, padded with -1."""
        token_BKT, _ = generate(
            self.model, *self._prompts(history_BT, max_new_tokens - 1, "Lower --text-tokens"), beams=beams,
            max_new_tokens=max_new_tokens, end_token=end_token,
        )  # fmt: skip
        return token_BKT[:, 0]

    def exact(self, history_BT: np.ndarray, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """As `rank`, from the scores of the whole catalogue: what a search with as many beams as leaves finds."""
        prompts = self._prompts(history_BT, self.catalogue.longest)
        leaf_L, score_BL = exact_scores(self.model, *prompts, self.trie, **self.scoring)
        best_Bk = top_k(score_BL, k)
        return self._items(leaf_L[best_Bk], score_BL.gather(1, best_Bk), k)

    def _guided(self, guide: Guide, history_BT: np.ndarray, user_B: np.ndarray | None) -> StepScores:
        user = None if user_B is None else torch.from_numpy(user_B).to(self.device)
        return guide.over(self.trie, torch.from_numpy(history_BT).to(self.device), user)

    def _prompts(self, history_BT: np.ndarray, answer: int, advice: str = SHORTER) -> tuple[torch.Tensor, torch.Tensor]:
        """Histories as tokens, with the model's thought behind each where it was trained to think.

        `UserError` where the model has no positions for them and an answer of so many tokens, the last not counted.
        """
        input_BS, mask_BS = (part.to(self.device) for part in self.layout.prompts(self.catalogue, history_BT))
        refuse_longer(self.limit, input_BS.shape[1] + self.layout.thought, answer, advice)
        if not self.layout.thought:
            return input_BS, mask_BS
        return likeliest(self.model, input_BS, mask_BS, tokens=self.layout.thought, end_token=self.catalogue.end)

    def _items(
        self, leaf_BK: torch.Tensor, score_BK: torch.Tensor, k: int, allowed: Allowed | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if allowed is None:
            item_Bk = expand(leaf_BK, self.trie, self.popularity_I, k)
        else:
            item_Bk = allowed.expand(leaf_BK, self.popularity_I, k)
        sorted_BK, column_BK = leaf_BK.sort(1)
        place_Bk = torch.searchsorted(sorted_BK, self.trie.leaf_of(item_Bk)).clamp(max=leaf_BK.shape[1] - 1)
        score_Bk = score_BK.gather(1, column_BK.gather(1, place_Bk))
        return item_Bk, torch.where(item_Bk >= 0, score_Bk, -torch.inf)

    def rank_events(
        self, sequences: Sequences, user_E: np.ndarray, end_E: np.ndarray, max_history: int, *,
        batch_size: int, progress: Any = None,
    ) -> Rankings:  # fmt: skip
        """Rankings of all events, in their order; long histories first, so that memory peaks at the start."""
        order = np.argsort(-np.minimum(end_E, max_history), kind="stable")
        chunks: Iterable[np.ndarray] = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        parts = list(
            self._chunks(sequences, user_E, end_E, max_history, chunks if progress is None else progress(chunks))
        )
        back = np.argsort(order, kind="stable")
        if not parts:
            return no_rankings()
        return Rankings(*(np.concatenate(column)[back] for column in zip(*parts, strict=True)))

    def _chunks(
        self,
        sequences: Sequences,
        user_E: np.ndarray,
        end_E: np.ndarray,
        max_history: int,
        chunks: Iterable[np.ndarray],
    ) -> Iterator[Rankings]:
        for chunk in chunks:
            history = histories(sequences, user_E[chunk], end_E[chunk], max_history)
            item, score = self.rank(history, LISTED)
            target = torch.from_numpy(targets(sequences, user_E[chunk], end_E[chunk])).to(self.device)
            yield Rankings(*(part.cpu().numpy() for part in (item, score, rank_in(item, target))))


def _one_after_another(steps: list[StepScores]) -> StepScores | None:
    """What changes a step's scores, in turn; None where nothing does."""

    def every(node_BK: torch.Tensor, token_BKC: torch.Tensor, log_prob_BKC: torch.Tensor) -> torch.Tensor:
        for step in steps:
            log_prob_BKC = step(node_BK, token_BKC, log_prob_BKC)
        return log_prob_BKC

    return every if len(steps) > 1 else next(iter(steps), None)
