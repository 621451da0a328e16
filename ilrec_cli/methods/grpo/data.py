"""Groups of answers, made anew for every batch with the weights of its step.

Shapes: B prompts, R answers of each, T tokens of the longest, S prompt tokens, I items.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ilrec_cli.batching import share
from ilrec_cli.errors import UserError
from ilrec_cli.lm.decode import beam_search
from ilrec_cli.lm.frozen import Frozen
from ilrec_cli.lm.generate import sample
from ilrec_cli.lm.phases import Material
from ilrec_cli.lm.preference import Prompts, branches, prompts_of
from ilrec_cli.lm.responses import Responses, pack
from ilrec_cli.methods._negatives import items_of, left_padded
from ilrec_cli.methods.grpo import rewards
from ilrec_cli.methods.grpo.loss import ADVANTAGE, REWARD, RIGHT, TOKEN_REFERENCE, UNIQUE


def rollouts(material: Material) -> Rollouts:
    """A row for every training target; the reference is the model with which the phase begins."""
    trie, group = material.examples.catalogue.trie, material.options.group
    leaves = len(torch.unique(trie.leaf_of(torch.arange(trie.items))))
    if material.options.rollouts == "beam" and leaves < group:
        raise UserError(f"groups of {group} different answers asked for, but there are only {leaves} identifiers")
    return Rollouts(material, prompts_of(material), branches(material), Frozen.at_start(material))


@dataclass(frozen=True)
class Rollouts:
    """A source of prompts with answers of the policy as it is. Counts prompts, or tokens where these are averaged."""

    material: Material
    prompts: Prompts
    branched: bool
    reference: Frozen
    epoch: int = 0
    made: dict[bytes, np.ndarray] = field(default_factory=dict)  # leaf_BR of micro-batches to come, by their rows

    def __len__(self) -> int:
        return len(self.prompts)

    def at(self, epoch: int) -> Rollouts:
        """Other samples in every epoch."""
        return replace(self, epoch=epoch)

    def lengths(self) -> np.ndarray:
        return self.prompts.lengths()

    def supervised(self, rows: np.ndarray) -> int:
        """What is averaged over. The tokens of a whole batch are known once all its answers are made."""
        if self.material.options.average == "sequence":
            return len(rows)
        parallel, catalogue, tokens = self.material.parallel, self.prompts.catalogue, 0
        self.made.clear()
        for part in share(rows, self.material.settings.micro_batch, parallel.rank, parallel.world):
            # A process without rows of its own runs another's, as the updater does, so that all stay in step.
            run = part if len(part) else rows[:1]
            self.made[run.tobytes()] = leaf_BR = self.answers(run)
            own = items_of(catalogue.trie, leaf_BR[leaf_BR >= 0]) if len(part) else np.zeros(0, dtype=np.int64)
            tokens += int(catalogue.length_I[own].sum())
        return sum(parallel.gather(tokens))

    def rewarded(self, rows: np.ndarray) -> int:
        """No term is counted apart."""
        return 0

    def batch(self, rows: np.ndarray) -> Responses:
        """Prompts with answers, their rewards, and the reference's log-probabilities of every token."""
        leaf_BR = self.made.get(rows.tobytes())
        leaf_BR = self.answers(rows) if leaf_BR is None else leaf_BR
        batch = self._packed(rows, leaf_BR)
        self.material.cost.add(making_tokens=sum(batch.fed()))
        with self._making() as together, self.reference.in_place():
            reference_BRT = together(lambda: self._log_probs(batch))
        return batch._replace(extra=self._worth(rows, leaf_BR) | {TOKEN_REFERENCE: reference_BRT})

    def answers(self, rows: np.ndarray) -> np.ndarray:
        """leaf_BR, by beam search best first, or drawn; -1 where a search found fewer.

        A sample depends on the seed, the epoch and its prompt alone: any split of a batch has the same.
        """
        with self._making() as together:
            leaf_BR: np.ndarray = together(lambda: self._generated(rows))
        return leaf_BR

    def _generated(self, rows: np.ndarray) -> np.ndarray:
        parallel, options, settings = self.material.parallel, self.material.options, self.material.settings
        trie, group = self.prompts.catalogue.trie.to(parallel.device), options.group
        prompt_K, length_B = self.prompts.tokens(rows)
        input_BS, mask_BS = (part.to(parallel.device) for part in left_padded(prompt_K, length_B))
        searched, scope = (parallel.model.backbone, input_BS, mask_BS, trie), settings.vocab_scope
        with parallel.autocast():
            if options.rollouts == "beam":
                leaf_BR, _ = beam_search(*searched, beams=group, normalize=scope)
            else:
                generators = self._generators(rows)
                leaf_BR = sample(*searched, samples=group, generator=generators, normalize=scope).leaf_BK
        answers = len(rows) * group
        self.material.cost.add(making_tokens=len(prompt_K) + answers * (trie.max_depth - 1), generated=answers)
        return leaf_BR.cpu().numpy()

    @contextmanager
    def _making(self) -> Iterator[Any]:
        """The model as it generates, not as it trains; time is accounted for. Yields `together`."""
        parallel = self.material.parallel
        parallel.model.eval()
        with self.material.cost.timed("making_seconds"):
            yield parallel.together
        parallel.model.train()

    def _generators(self, rows: np.ndarray) -> Sequence[torch.Generator]:
        keys = [np.random.SeedSequence([self.material.settings.seed, self.epoch, int(row)]) for row in rows]
        return [torch.Generator().manual_seed(int(key.generate_state(1, np.uint64)[0] >> 1)) for key in keys]

    def _packed(self, rows: np.ndarray, leaf_BR: np.ndarray) -> Responses:
        catalogue = self.prompts.catalogue
        item_BR = items_of(catalogue.trie, leaf_BR)
        width = int(catalogue.length_I[item_BR].max())
        token_BRT = np.where(item_BR[:, :, None] < 0, -1, catalogue.token_ID[item_BR][:, :, :width])
        return pack(*self.prompts.tokens(rows), token_BRT, branched=self.branched, pad=self.prompts.pad)

    @torch.no_grad()
    def _log_probs(self, batch: Responses) -> Tensor:
        parallel = self.material.parallel
        with parallel.autocast():
            found_BRT = batch.to(parallel.device).log_probs(parallel.model, self.material.settings.loss_chunk)
        return found_BRT.cpu()

    def _worth(self, rows: np.ndarray, leaf_BR: np.ndarray) -> dict[str, Tensor]:
        """What the loss and the log need of each answer."""
        options, catalogue = self.material.options, self.prompts.catalogue
        target_B, present_BR = self.prompts.targets()[rows], leaf_BR >= 0
        right_BR = rewards.exact(leaf_BR, catalogue.trie.leaf_of(torch.from_numpy(target_B)).cpu().numpy())
        reward_BR = options.exact * right_BR
        if options.rank:
            reward_BR = reward_BR + options.rank * rewards.rank(right_BR)
        if options.prefix:
            item_BR = items_of(catalogue.trie, leaf_BR)
            reward_BR = reward_BR + options.prefix * rewards.prefix(catalogue, item_BR, target_B)
        if options.cf:
            reward_BR = reward_BR + options.cf * self._collaborative(rows, leaf_BR)
        reward_BR = np.where(present_BR, reward_BR, 0)
        different_B = [len(np.unique(leaf_R[leaf_R >= 0])) / len(leaf_R) for leaf_R in leaf_BR]
        found = {
            ADVANTAGE: rewards.advantages(reward_BR, present_BR), REWARD: reward_BR, RIGHT: right_BR,
            UNIQUE: np.array(different_B),
        }  # fmt: skip
        return {name: torch.from_numpy(values).float() for name, values in found.items()}

    @torch.no_grad()
    def _collaborative(self, rows: np.ndarray, leaf_BR: np.ndarray) -> np.ndarray:
        """Scores for the histories that the prompts show."""
        assert self.material.scorer is not None
        history_BT = torch.from_numpy(self.prompts.items(rows)).to(self.material.parallel.device)
        return rewards.collaborative(self.prompts.catalogue.trie, self.material.scorer(history_BT), leaf_BR.clip(0))
