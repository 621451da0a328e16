"""Groups of answers, made anew for every batch with the weights of its step.

Shapes: B prompts, R answers of each, N = B * R, T tokens of the longest, S prompt tokens, I items.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ilrec_cli.batching import share
from ilrec_cli.errors import UserError
from ilrec_cli.lm.allowed import Allowed
from ilrec_cli.lm.decode import StepScores, beam_search
from ilrec_cli.lm.frozen import Frozen
from ilrec_cli.lm.generate import sample, sample_text
from ilrec_cli.lm.phases import Material
from ilrec_cli.lm.preference import Prompts, branches, prompts_of
from ilrec_cli.lm.responses import Responses, pack
from ilrec_cli.lm.thoughts import behind
from ilrec_cli.methods._negatives import items_of, left_padded
from ilrec_cli.methods.grpo import Config, rewards
from ilrec_cli.methods.grpo.loss import ADVANTAGE, REWARD, RIGHT, TOKEN_REFERENCE, UNIQUE
from ilrec_cli.trie import ItemTrie


def rollouts(material: Material) -> Rollouts:
    """A row for every training target; the reference is the model with which the phase begins."""
    prompts = prompts_of(material)
    trie = prompts.catalogue.trie.to(material.parallel.device)
    return Rollouts(material, prompts, trie, branches(material), Frozen.at_start(material))


def check_group(options: Config, prompts: Prompts) -> None:
    """`UserError` where a search cannot find so many different answers: before the fine-tuning that comes first."""
    trie = prompts.catalogue.trie
    leaves = len(torch.unique(trie.leaf_of(torch.arange(trie.items))))
    if options.rollouts == "beam" and leaves < options.group:
        raise UserError(
            f"groups of {options.group} different answers asked for, but there are only {leaves} identifiers; ask for fewer with "
            "-o group"
        )


class Answers(NamedTuple):
    """What the policy said: the identifier of each answer, -1 where a search found fewer, and what it thought before."""

    leaf_BR: np.ndarray
    thought_BRT: np.ndarray


@dataclass(frozen=True)
class Rollouts:
    """A source of prompts with answers of the policy as it is. Counts prompts, or tokens where these are averaged."""

    material: Material
    prompts: Prompts
    trie: ItemTrie  # of all items, on the device
    branched: bool
    reference: Frozen
    epoch: int = 0
    made: dict[bytes, Answers] = field(default_factory=dict)  # of micro-batches to come, by their rows

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
        parallel, tokens = self.material.parallel, 0
        self.made.clear()
        for part in share(rows, self.material.settings.micro_batch, parallel.rank, parallel.world):
            # A process without rows of its own runs another's, as the updater does, so that all stay in step.
            run = part if len(part) else rows[:1]
            self.made[run.tobytes()] = answers = self.answers(run)
            tokens += int((self._tokens(answers) >= 0).sum()) if len(part) else 0
        return sum(parallel.gather(tokens))

    def rewarded(self, rows: np.ndarray) -> int:
        """No term is counted apart."""
        return 0

    def batch(self, rows: np.ndarray) -> Responses:
        """Prompts with answers, their rewards, and the reference's log-probabilities of every token."""
        answers = self.made.get(rows.tobytes()) or self.answers(rows)
        prompt_K, length_B = self.prompts.tokens(rows)
        batch = pack(prompt_K, length_B, self._tokens(answers), branched=self.branched, pad=self.prompts.pad)
        self.material.cost.add(making_tokens=sum(batch.fed()))
        with self._making() as together, self.reference.in_place():
            reference_BRT = together(lambda: self._log_probs(batch))
        return batch._replace(extra=self._worth(rows, answers.leaf_BR) | {TOKEN_REFERENCE: reference_BRT})

    def answers(self, rows: np.ndarray) -> Answers:
        """By beam search best first, or drawn. A sample depends on the seed, the epoch and its prompt alone.

        So any split of a batch has the same.
        """
        with self._making() as together:
            found: Answers = together(lambda: self._generated(rows))
        return found

    def _generated(self, rows: np.ndarray) -> Answers:
        parallel, options = self.material.parallel, self.material.options
        trie, scope = self.trie, self.material.settings.vocab_scope
        prompt_K, length_B = self.prompts.tokens(rows)
        input_BS, mask_BS = (part.to(parallel.device) for part in left_padded(prompt_K, length_B))
        model, group = parallel.model.backbone, options.group
        answers = len(rows) * group
        self.material.cost.add(making_tokens=len(prompt_K) + answers * (trie.max_depth - 1), generated=answers)
        with parallel.autocast():
            if options.thoughts:
                return self._thought(rows, (input_BS, mask_BS))
            if options.rollouts == "beam":
                among = self._candidates(rows)
                leaf_BR, _ = beam_search(
                    model, input_BS, mask_BS, trie, beams=group, normalize=scope, step_scores=among
                )
            else:
                leaf_BR, *_ = sample(
                    model, input_BS, mask_BS, trie, samples=group, generator=self._generators(rows), normalize=scope
                )
        return Answers(leaf_BR.cpu().numpy(), np.zeros((*leaf_BR.shape, 0), dtype=np.int64))

    def _candidates(self, rows: np.ndarray) -> StepScores | None:
        """What keeps a search to each row's candidates, where rows have some."""
        if self.prompts.allowed is None:
            return None
        item_BM = self.prompts.allowed[rows]
        row_N, column_N = np.nonzero(item_BM >= 0)
        allowed_BI = torch.zeros(len(rows), self.trie.items, dtype=torch.bool)
        allowed_BI[torch.from_numpy(row_N), torch.from_numpy(item_BM[row_N, column_N])] = True
        return Allowed(self.trie, allowed_BI.to(self.trie.order.device)).step_scores

    def _thought(self, rows: np.ndarray, prompts: tuple[Tensor, Tensor]) -> Answers:
        """Thoughts drawn freely, and an item drawn behind each."""
        model, options = self.material.parallel.model.backbone, self.material.options
        generators = self._generators(rows)
        thought_BRT, _ = sample_text(
            model, *prompts, samples=options.group, max_new_tokens=options.thoughts,
            end_token=self.prompts.catalogue.end, generator=generators,
        )  # fmt: skip
        input_NS, mask_NS = behind(*prompts, thought_BRT)
        each = [own for own in generators for _ in range(options.group)]
        leaf_N1, *_ = sample(model, input_NS, mask_NS, self.trie, samples=1, generator=each)
        self.material.cost.add(making_tokens=int((thought_BRT >= 0).sum() + mask_NS.sum()))
        return Answers(leaf_N1.view(thought_BRT.shape[:2]).cpu().numpy(), thought_BRT.cpu().numpy())

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

    def _tokens(self, answers: Answers) -> np.ndarray:
        """token_BRT of thoughts and paths, padded with -1 at the end."""
        catalogue = self.prompts.catalogue
        item_BR = items_of(catalogue.trie, answers.leaf_BR)
        width = int(catalogue.length_I[item_BR].max())
        path_BRT = np.where(item_BR[:, :, None] < 0, -1, catalogue.token_ID[item_BR][:, :, :width])
        token_BRT = np.concatenate([answers.thought_BRT, path_BRT], axis=2)
        return np.take_along_axis(token_BRT, np.argsort(token_BRT < 0, axis=2, kind="stable"), axis=2)

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
