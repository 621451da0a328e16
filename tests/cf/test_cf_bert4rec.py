"""BERT4Rec: which places are masked, and the loss of a given mask against a loop."""

from __future__ import annotations

import numpy as np
import torch

from ilrec_cli.cf._common import Batch, Facts, make_batch, whole_windows
from ilrec_cli.cf.bert4rec import Config
from ilrec_cli.cf.bert4rec.model import Model, draw_masks
from ilrec_cli.histories import Sequences, training_windows

ITEMS, LONGEST = 12, 5
# Training parts of 2, 3 and 9 items (the last one in overlapping windows), then what is held out: item 11.
LENGTHS = np.array([2, 3, 9])
SEQUENCES = Sequences(
    np.array([4, 2, 11, 11, 1, 0, 5, 11, 11, 0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 11]), np.array([0, 4, 9, 20])
)


def batch() -> Batch:
    return make_batch(SEQUENCES, training_windows(SEQUENCES, LENGTHS, LONGEST), torch.device("cpu"))


def model(**options: object) -> Model:
    torch.manual_seed(0)
    config = Config(hidden_size=8, n_layers=2, inner_size=8, initializer_range=0.3, **options)  # type: ignore[arg-type]
    return Model(config, Facts(3, ITEMS, LONGEST, torch.ones(ITEMS))).eval()


def test_windows_are_whole_and_ask_for_every_training_interaction_once() -> None:
    item_BS, asked_BS = whole_windows(batch())
    assert item_BS.tolist() == [
        [4, 2, -1, -1, -1, -1], [1, 0, 5, -1, -1, -1], [0, 1, 2, 3, 4, 5], [3, 4, 5, 6, 7, 8],
    ]  # fmt: skip
    assert sorted(item_BS[asked_BS].tolist()) == sorted([4, 2, 1, 0, 5, *range(9)])


def test_masks_hit_asked_places_alone_and_every_one_of_them_in_both_ways() -> None:
    item_BS, asked_BS = whole_windows(batch())
    for ratio, many in ((1.0, False), (0.0, True)):
        torch.manual_seed(0)
        config = Config(ft_ratio=ratio, mask_ratio=0.3)
        drawn = [draw_masks(item_BS, asked_BS, config) for _ in range(200)]
        masked = torch.stack([mask for _, mask in drawn])
        assert masked.any(2).all(), "a row without a mask"
        assert not masked[:, ~asked_BS].any(), "a place that is context or padding"
        reachable = asked_BS.clone()
        if not many:
            reachable[:, 0] = False  # nothing would be left to predict it from
        assert torch.equal(masked.any(0), reachable)
        for item, mask in drawn:
            last = (item >= 0).sum(1) - 1
            if many:
                assert torch.equal(item, item_BS)
            else:
                assert torch.equal(mask.long().argmax(1), last)
                assert mask.sum() == len(item)
                assert torch.equal(item, torch.where(torch.arange(6) <= last[:, None], item_BS, -1))


def test_the_share_of_masks_and_of_cut_rows_is_as_asked_for() -> None:
    torch.manual_seed(0)
    item_BS = torch.arange(20).repeat(4000, 1)
    item, mask = draw_masks(item_BS, torch.ones_like(item_BS, dtype=torch.bool), Config(mask_ratio=0.2, ft_ratio=0.25))
    alone = mask.sum(1) == 1
    cut = alone & (mask.long().argmax(1) == (item >= 0).sum(1) - 1)
    assert abs(cut.float().mean() - 0.25) < 0.02 + 0.8**19 / 4
    assert abs(mask[~cut].float().mean() - 0.2) < 0.01
    place = mask[cut].long().argmax(1)
    assert abs(torch.bincount(place, minlength=20)[1:].float() / cut.sum() - 1 / 19).max() < 0.03


def test_the_loss_of_a_mask_is_cross_entropy_at_each_masked_place() -> None:
    net = model()
    item_BS, asked_BS = whole_windows(batch())
    torch.manual_seed(1)
    item_BS, mask_BS = draw_masks(item_BS, asked_BS, Config(mask_ratio=0.5))
    found = net.masked_loss(item_BS, mask_BS).item()
    losses = []
    for row, mask in zip(item_BS.tolist(), mask_BS.tolist(), strict=True):
        length = sum(item >= 0 for item in row)
        shown = torch.tensor([[ITEMS if mask[place] else row[place] for place in range(length)]])
        hidden = net.head(net._encode(shown)[0]).double()
        for place in range(length):
            if mask[place]:
                scores = hidden[place] @ net.item.weight[:ITEMS].double().T + net.output_bias.double()
                losses.append((scores.logsumexp(0) - scores[row[place]]).item())
    np.testing.assert_allclose(found, np.mean(losses), rtol=1e-5)


def test_scores_are_those_of_training_with_the_last_place_masked() -> None:
    """A row cut at its last place and masked there costs what the scores of its history say."""
    net = model()
    item_BS = torch.tensor([[3, 1, 7, 2, -1, -1]])
    mask_BS = torch.tensor([[False, False, False, True, False, False]])
    scores = net.scores(torch.tensor([[3, 1, 7]]))[0]
    expected = (scores.logsumexp(0) - scores[2]).item()
    np.testing.assert_allclose(net.masked_loss(item_BS, mask_BS).item(), expected, rtol=1e-5)


def test_a_masked_item_is_seen_from_both_sides_and_never_itself() -> None:
    net = model()
    mask_BS = torch.tensor([[False, True, False, False, False, False]])

    def hidden(*row: int) -> torch.Tensor:
        item = torch.tensor([[*row, *[-1] * (6 - len(row))]])
        return net._encode(item.masked_fill(mask_BS, ITEMS))[0, 1]

    torch.testing.assert_close(hidden(3, 1, 7), hidden(3, 2, 7))
    assert not torch.allclose(hidden(3, 1, 7), hidden(3, 1, 8))
    assert not torch.allclose(hidden(3, 1, 7), hidden(4, 1, 7))
