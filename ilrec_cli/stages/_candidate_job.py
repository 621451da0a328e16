"""Training on candidate ranking: examples, collaborative rewards among a row's candidates, validation on candidates.

Shapes: E events, C candidates, M targets, I items, D path tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ilrec_cli.artifacts import Artifact
from ilrec_cli.errors import UserError
from ilrec_cli.histories import Sequences, histories, targets
from ilrec_cli.lm import prompts
from ilrec_cli.lm.candidate_rank import CandidateRanker, rankings
from ilrec_cli.lm.candidate_rewards import candidate_rewards
from ilrec_cli.lm.candidates import CandidateExamples, CandidateLayout, CandidatePrompts, Draw
from ilrec_cli.lm.examples import Batch, Catalogue
from ilrec_cli.lm.model import Rewards
from ilrec_cli.lm.sharding import Parallel
from ilrec_cli.metrics import ranking_metrics
from ilrec_cli.negatives import candidate_sets
from ilrec_cli.settings import Train
from ilrec_cli.stages import _inputs
from ilrec_cli.stages._candidate_sets import Sets

CHUNK_SCORES = 8_000_000  # collaborative scores that exist at a time
VALIDATION_SEED = 2024  # the validation sample is the same for every run, as for the other tasks
VALIDATION_BATCH = 64
LOGGED = ("hit@1", "hit@10", "ndcg@10")
DRAWS = 2  # stream of the negatives that are drawn anew in every epoch


def make_examples(
    settings: Train, data: Artifact, items: Catalogue, tokenizer: Any, events: tuple[np.ndarray, np.ndarray]
) -> CandidateExamples:
    """One example for each (user, end) of `events`; `UserError` where one is too long: nothing is cut."""
    sequences, max_history = _inputs.sequences(data), data.json("card.json")["max_history"]
    form = prompts.chosen(tokenizer, as_chat=settings.chat)
    draw = candidate_draws(data, sequences, events, settings.seed)
    examples = CandidateExamples.per_target(
        sequences,
        events,
        max_history,
        CandidatePrompts(CandidateLayout.of(tokenizer, form), items),
        draw,
        settings.seed,
    )
    # Templates, and candidates of one's own, are drawn anew in every epoch.
    longest = max(int(examples.at(epoch).lengths().max()) for epoch in range(settings.epochs))
    if longest > settings.max_length:
        raise UserError(
            f"--max-length {settings.max_length}: the longest example of candidate ranking has {longest:,} tokens. Raise it if "
            "the model reads as many, or preprocess with a smaller --max-history, fewer --candidates or a smaller --max-text"
        )
    return examples


def candidate_draws(data: Artifact, sequences: Sequences, events: tuple[np.ndarray, np.ndarray], seed: int) -> Draw:
    """epoch -> candidate_EC: the published ones, or the target among items that its user's training part does not hold,
    drawn anew in every epoch, as many as held-out events have."""
    sets, (user_E, end_E) = Sets.of(data), events
    published_E, target_E = sets.has(user_E, end_E), targets(sequences, user_E, end_E)
    known, items = _before_held_out(data, sequences), data.json("card.json")["statistics"]["items"]

    def draw(epoch: int) -> np.ndarray:
        candidate_EC = np.zeros((len(user_E), sets.size), dtype=np.int64)
        candidate_EC[published_E] = sets.find(user_E[published_E], end_E[published_E])
        open_E = ~published_E
        if open_E.any():
            rng = np.random.default_rng([seed, DRAWS, epoch])
            candidate_EC[open_E] = candidate_sets(known, user_E[open_E], target_E[open_E], sets.size - 1, items, rng)
        return candidate_EC

    return draw


def _before_held_out(data: Artifact, sequences: Sequences) -> Sequences:
    """Sequences up to the end of their training parts: what training may know of a user."""
    stop = np.repeat(_inputs.training_part(data)[1], sequences.lengths)
    place = np.arange(len(sequences.items)) - np.repeat(sequences.offsets[:-1], sequences.lengths)
    kept = place < stop
    offsets = np.concatenate([[0], np.cumsum(kept)])[sequences.offsets]
    return Sequences(sequences.items[kept], offsets)


def reward_source(scorer: Any | None, items: Catalogue, device: torch.device) -> Callable[[Batch], Rewards]:
    """Collaborative rewards of a batch: eq. 10 over each row's candidates, R renormalised over them.

    Without a scorer: which tokens continue a candidate, and no rewards.
    """
    token_ID = torch.from_numpy(items.token_ID.astype(np.int64)).to(device)

    @torch.no_grad()
    def rewards(batch: Batch) -> Rewards:
        candidate_MC = batch.candidate_MC
        assert candidate_MC is not None
        score_MC = None
        if scorer is not None:
            size = max(1, CHUNK_SCORES // len(token_ID))
            parts = zip(torch.split(batch.history_MT, size), torch.split(candidate_MC, size), strict=True)
            score_MC = torch.cat([scorer.scores(history).gather(1, candidates) for history, candidates in parts])
        return candidate_rewards(score_MC, token_ID[candidate_MC], batch.target_N, batch.event_N)

    return rewards


def validation(
    settings: Train, data: Artifact, parallel: Parallel, examples: CandidateExamples
) -> Callable[[], dict[str, float]]:
    """Hit@1, Hit@10 and NDCG@10 among the candidates of a fixed sample of validation events, by sums of
    log-probabilities; the events are shared out over the processes."""
    sequences, max_history, sets = _inputs.sequences(data), data.json("card.json")["max_history"], Sets.of(data)
    _, user, end = _inputs.events(data, "valid")
    chosen = np.flatnonzero(_inputs.draw_users(user, settings.valid_users, VALIDATION_SEED) & sets.has(user, end))
    if not len(chosen):
        raise UserError(f"{data.path}: no validation target has candidates (candidate files: -o valid_share=0.1)")
    mine, asked = chosen[parallel.rank :: parallel.world], examples.prompts
    popularity = _inputs.training_popularity(data)
    scope_U = parallel.model.scope_V if settings.vocab_scope == "ids" else None

    def rank() -> np.ndarray:
        ranker = CandidateRanker(
            parallel.model.backbone, asked.catalogue, lambda history, candidate: asked.padded(history, candidate, 0),
            popularity, scope_U=scope_U,
        )  # fmt: skip
        ranks = [np.zeros(0, dtype=np.int64)]  # a process may have no event
        for rows in np.array_split(mine, range(VALIDATION_BATCH, len(mine), VALIDATION_BATCH)) if len(mine) else []:
            history_BT = histories(sequences, user[rows], end[rows], max_history)
            found = ranker.rank(history_BT, sets.find(user[rows], end[rows]), mean=False)
            ranks.append(rankings(*found, targets(sequences, user[rows], end[rows])).rank_E)
        return np.concatenate(ranks)

    def validate() -> dict[str, float]:
        parallel.model.eval()
        with parallel.autocast():
            values = ranking_metrics(parallel.together(rank), [1, 10])
        sums = torch.tensor([float(values[name].sum()) for name in LOGGED], device=parallel.device)
        return dict(zip(LOGGED, (parallel.summed(sums) / len(chosen)).tolist(), strict=True))

    return validate
