"""What every collaborative model owes: learn the chain world, look only back, score alike alone and in a batch."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ilrec_cli import plugins
from ilrec_cli.cf import _fit, _rank
from ilrec_cli.cf._common import Batch, Facts, make_batch
from ilrec_cli.cf._rank import Events, rank_events
from ilrec_cli.histories import Sequences, training_windows
from ilrec_cli.metrics import ranking_metrics

ITEMS, USERS, LONGEST = 30, 80, 8
TRAINED = [name for name in plugins.names("cf") if plugins.load("cf", name).TRAINED]
SEQUENTIAL = [name for name in TRAINED if plugins.load("cf", name).SEQUENTIAL]
CAUSAL = [name for name in TRAINED if name in ("caser", "gru4rec", "sasrec")]
SETTINGS = SimpleNamespace(epochs=60, patience=60, batch_size=16, learning_rate=5e-3, weight_decay=0.0, clip=5.0,
                           max_steps=None, seed=0, dtype="float32")  # fmt: skip
SMALL: dict[str, dict[str, Any]] = {
    "sasrec": {"hidden_size": 16, "hidden_dropout_prob": 0.1, "attn_dropout_prob": 0.0},
    "gru4rec": {"embedding_size": 16, "hidden_size": 16, "dropout_prob": 0.1},
    "bert4rec": {
        "hidden_size": 32,
        "n_layers": 1,
        "hidden_dropout_prob": 0.0,
        "attn_dropout_prob": 0.0,
        "initializer_range": 0.2,
        "dupe_factor": 4,
    },
    "caser": {"embedding_size": 16, "n_h": 4, "dropout_prob": 0.1},
}


def chain_world() -> tuple[Sequences, np.ndarray]:
    """Item i is always followed by i + 1."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 14, size=USERS)
    items = np.concatenate([(rng.integers(ITEMS) + np.arange(length)) % ITEMS for length in lengths])
    return Sequences(items, np.concatenate([[0], lengths.cumsum()])), lengths


def facts(sequences: Sequences) -> Facts:
    return Facts(USERS, ITEMS, LONGEST, torch.bincount(torch.from_numpy(sequences.items), minlength=ITEMS))


def build(name: str, seed: int = 0) -> Any:
    plugin = plugins.load("cf", name)
    torch.manual_seed(seed)
    config = plugin.Config(**SMALL.get(name, {}))
    return plugins.part(plugin, "model").Model(config, facts(chain_world()[0])).eval()


@pytest.mark.parametrize("name", SEQUENTIAL)
def test_sequential_models_learn_the_chain(name: str) -> None:
    sequences, lengths = chain_world()
    model = build(name)
    windows = training_windows(sequences, lengths - 2, LONGEST)
    users = np.arange(USERS)
    log: list[dict[str, Any]] = []
    material = _fit.Material(sequences, windows, Events(users, lengths - 2), facts(sequences))
    _fit.fit(model, material, SETTINGS, device=torch.device("cpu"), log=log.append)
    assert log[-1]["loss"] < 0.5 * log[0]["loss"]
    rankings = rank_events(model, sequences, Events(users, lengths - 1), facts(sequences), torch.device("cpu"))
    assert ranking_metrics(rankings.rank_E, [1])["hit@1"].mean() > 0.9
    best = max(row["valid_ndcg@10"] for row in log)
    assert [row["valid_ndcg@10"] for row in log if row["best"]][-1] == best


@pytest.mark.parametrize("name", plugins.names("cf"))
def test_scores_have_one_row_per_history_and_one_column_per_item(name: str) -> None:
    history = torch.tensor([[3, 4, -1], [5, 6, 7]])
    scores = build(name).scores(history, torch.tensor([0, 1]))
    assert scores.shape == (2, ITEMS)
    assert torch.isfinite(scores).all()


@pytest.mark.parametrize("name", plugins.names("cf"))
def test_alone_in_company_and_padded_the_scores_are_the_same(name: str) -> None:
    model = build(name)
    rows = [[3], [4, 5, 6, 7], [9, 2], list(range(12))]
    padded = torch.full((4, 12), -1)
    for place, row in enumerate(rows):
        padded[place, : len(row)] = torch.tensor(row)
    together = model.scores(padded)
    for place, row in enumerate(rows):
        torch.testing.assert_close(model.scores(torch.tensor([row]))[0], together[place], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["gru4rec", "sasrec"])
def test_histories_of_successive_targets_are_encoded_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that the next one continues is read off that one; what looks alike but does not continue it is not."""
    model = build(name)
    rows: list[list[int]] = [
        [],
        [3],
        [3, 4],
        [3, 4, 5],
        [4, 5, 6],
        [4, 5, 6, 7],
        [4, 5, 6, 7],
        [9, 5, 6, 7, 8],
        [],
        [1, 2],
    ]
    history = torch.tensor([row + [-1] * (LONGEST - len(row)) for row in rows])
    alone = torch.cat([model.scores(row[None]) for row in history])
    encoded: list[int] = []
    encode = model._encode
    monkeypatch.setattr(model, "_encode", lambda item_BT: encoded.append(len(item_BT)) or encode(item_BT))
    torch.testing.assert_close(model.scores(history), alone, rtol=1e-5, atol=1e-6)
    assert encoded == [6], "[3, 4, 5], [4, 5, 6, 7] twice, [9, ...], [] and [1, 2]"


@pytest.mark.parametrize("name", plugins.names("cf"))
def test_an_empty_history_has_scores_that_no_item_of_the_padding_decides(name: str) -> None:
    model = build(name)
    alone = model.scores(torch.empty(1, 0, dtype=torch.long))
    together = model.scores(torch.tensor([[3, 4], [-1, -1]]))
    assert torch.isfinite(alone).all()
    torch.testing.assert_close(alone[0], together[1])
    if plugins.load("cf", name).SEQUENTIAL:
        assert not torch.allclose(alone, model.scores(torch.tensor([[0]])))


@pytest.mark.parametrize("name", plugins.names("cf"))
def test_only_the_most_recent_items_count(name: str) -> None:
    model = build(name)
    long = torch.arange(20)[None]
    torch.testing.assert_close(model.scores(long), model.scores(long[:, -LONGEST:]))


@pytest.mark.parametrize("name", CAUSAL)
def test_a_place_does_not_see_what_comes_after_it(name: str) -> None:
    model = build(name)

    def loss(*shown: int) -> float:
        target = torch.tensor([[-1, 9, -1, -1]])
        return model.loss(Batch(torch.tensor([shown]), target, torch.tensor([0]))).item()

    assert loss(3, 4, 5, 6) == loss(3, 4, 8, 9)
    assert loss(3, 4, 5, 6) != loss(3, 8, 5, 6)
    assert loss(3, 4, 5, 6) != loss(8, 4, 5, 6)


@pytest.mark.parametrize("name", CAUSAL)
def test_the_loss_is_cross_entropy_of_the_scores_at_every_target(name: str) -> None:
    """Training at all places at once equals scoring every prefix on its own, target by target, in a loop."""
    sequences, lengths = chain_world()
    model = build(name)
    windows = training_windows(sequences, lengths - 2, LONGEST).take(np.arange(12))
    found = model.loss(make_batch(sequences, windows, torch.device("cpu"))).item()
    losses = []
    for start, first, stop in zip(*windows, strict=True):
        user = np.searchsorted(sequences.offsets, start, side="right") - 1
        for place in range(first, stop):
            history = torch.from_numpy(sequences.items[start:place])[None]
            scores = model.scores(history, torch.tensor([user])).double()[0]
            losses.append((scores.logsumexp(0) - scores[sequences.items[place]]).item())
    assert found == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.parametrize("loss", ["softmax", "sampled", "gbce"])
@pytest.mark.parametrize("name", TRAINED)
def test_the_gradient_reaches_every_parameter(name: str, loss: str) -> None:
    sequences, lengths = chain_world()
    options = {} if name == "bpr" else {"loss": loss, "n_negatives": 10 * ITEMS}
    plugin = plugins.load("cf", name)
    torch.manual_seed(0)
    config = plugin.Config(**{**SMALL.get(name, {}), **options})
    model = plugins.part(plugin, "model").Model(config, facts(sequences))
    found = model.loss(make_batch(sequences, training_windows(sequences, lengths, LONGEST), torch.device("cpu")))
    found.backward()
    for name_, parameter in model.named_parameters():
        assert parameter.grad is not None, name_
        assert torch.isfinite(parameter.grad).all(), name_
        assert parameter.grad.any(), name_


@pytest.mark.parametrize("name", TRAINED)
def test_item_embeddings_have_a_row_for_every_item(name: str) -> None:
    assert len(build(name).item_embeddings()) == ITEMS


def test_bpr_recovers_blocks_for_users_it_knows_and_for_histories_without_one() -> None:
    """Items of one half go together: a user's other items of the half come before all of the other half."""
    rng = np.random.default_rng(0)
    half, shown = ITEMS // 2, 8
    items = np.stack([rng.permutation(half)[: shown + 2] + half * (user % 2) for user in range(USERS)])
    sequences = Sequences(items.ravel(), np.arange(USERS + 1) * (shown + 2))
    lengths = np.full(USERS, shown)
    lengths[-6:] = 1  # not trained on
    torch.manual_seed(0)
    plugin = plugins.load("cf", "bpr")
    model = plugins.part(plugin, "model").Model(plugin.Config(embedding_size=8), facts(sequences))
    events = Events(np.arange(USERS), np.full(USERS, shown))
    material = _fit.Material(sequences, training_windows(sequences, lengths, LONGEST), events, facts(sequences))
    settings = SimpleNamespace(**{**vars(SETTINGS), "learning_rate": 2e-2, "weight_decay": 1.0})
    _fit.fit(model, material, settings, device=torch.device("cpu"), log=[].append)
    history = torch.from_numpy(items[:, :shown])
    for user in (torch.arange(USERS), None, torch.full((USERS,), -1)):
        best = model.scores(history, user).topk(half).indices
        assert (best // half == torch.arange(USERS)[:, None] % 2).all()
    strangers = torch.arange(USERS)[-6:]
    torch.testing.assert_close(model.scores(history[-6:], strangers), model.scores(history[-6:]))
    assert not torch.allclose(model.scores(history[:1], torch.tensor([0])), model.scores(history[:1]))


def test_popularity_is_the_count() -> None:
    sequences, _ = chain_world()
    scores = build("popularity").scores(torch.tensor([[1], [2]]))
    assert scores.tolist() == [np.bincount(sequences.items, minlength=ITEMS).tolist()] * 2


def test_ranks_break_ties_by_the_lower_item(monkeypatch: pytest.MonkeyPatch) -> None:
    sequences, lengths = chain_world()

    class Flat:
        def scores(self, history: torch.Tensor, user: torch.Tensor | None = None) -> torch.Tensor:
            return torch.zeros(len(history), ITEMS)

    events = Events(np.arange(USERS), lengths - 1)
    targets = sequences.items[sequences.offsets[1:] - 1]
    for chunk in (1, ITEMS, 10**6):
        monkeypatch.setattr(_rank, "CHUNK_SCORES", chunk)
        found = rank_events(Flat(), sequences, events, facts(sequences), torch.device("cpu"))
        assert found.rank_E.tolist() == [target if target < 20 else -1 for target in targets]
        assert found.item_Ek.tolist() == [list(range(20))] * USERS
