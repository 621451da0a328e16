"""The random row: reproducible, different per history and seed, and uniform."""

from __future__ import annotations

import torch

from ilrec_cli.cf._common import Facts
from ilrec_cli.cf.random import Config
from ilrec_cli.cf.random.model import Model, mix

FACTS = Facts(users=2, items=5000, max_history=4, popularity_I=torch.ones(5000))


def test_the_hash_is_splitmix64() -> None:
    """First outputs of the published generator for seeds 0 and 1234567."""
    found = [int(value) & (1 << 64) - 1 for value in mix(torch.tensor([0, 1234567]))]
    assert found == [0xE220A8397B1DCDAF, 6457827717110365317]


def test_scores_are_uniform_and_change_with_the_history_and_the_seed() -> None:
    history = torch.tensor([[1, 2, -1], [2, 1, -1], [1, 2, 3]])
    scores = Model(Config(), FACTS).scores(history)
    assert scores.min() >= 0
    assert scores.max() < 1
    assert (torch.histc(scores, 10, 0, 1) / scores.numel() - 0.1).abs().max() < 0.01
    assert torch.corrcoef(scores).triu(1).abs().max() < 0.05
    again = Model(Config(seed=1), FACTS).scores(history)
    assert torch.corrcoef(torch.cat([scores[:1], again[:1]]))[0, 1].abs() < 0.05
    assert torch.equal(Model(Config(), FACTS).scores(history), scores)
