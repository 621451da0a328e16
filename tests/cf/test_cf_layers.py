"""Layers against slow loops and reference implementations: Caser's convolutions, GRU, transformer block, BPR's pairs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from ilrec_cli.cf import bpr, caser, gru4rec
from ilrec_cli.cf._common import Facts
from ilrec_cli.cf._settings import Transformer
from ilrec_cli.cf._transformer import Block
from ilrec_cli.cf.bpr.model import Model as Bpr
from ilrec_cli.cf.caser.model import Model as Caser
from ilrec_cli.cf.gru4rec.model import Model as Gru

ITEMS, USERS, LONGEST = 9, 4, 6
FACTS = Facts(USERS, ITEMS, LONGEST, torch.ones(ITEMS))
HISTORY = [3, 1, 4, 1, 5, 8]


@pytest.mark.parametrize("window", [1, 3, 5])
def test_caser_is_the_paper_at_each_place(window: int) -> None:
    """A window of L embeddings, zeros before the first; every filter slid over it by hand, in float64."""
    torch.manual_seed(0)
    net = Caser(caser.Config(embedding_size=4, window=window, n_h=3, n_v=2), FACTS).double().eval()
    user = torch.randn(1, 4, dtype=torch.float64)
    found = net._encode(torch.tensor([HISTORY]), user)[0].detach().numpy()
    embedding, dense = net.item.weight.detach().numpy(), net.dense.weight.detach().numpy()
    for place in range(len(HISTORY)):
        seen = [embedding[item] for item in HISTORY[: place + 1]][-window:]
        image = np.stack([np.zeros(4)] * (window - len(seen)) + seen)  # L x D
        features: list[float] = []
        for filter_L in net.vertical.weight.detach().numpy():
            features.extend(sum(filter_L[row] * image[row, d] for row in range(window)) for d in range(4))
        for height, convolution in enumerate(net.horizontal, start=1):
            weight = convolution.weight.detach().numpy()  # n_h, D, height
            bias = convolution.bias.detach().numpy()
            for n in range(3):
                responses = [
                    bias[n] + sum(weight[n, d, row] * image[top + row, d] for row in range(height) for d in range(4))
                    for top in range(window - height + 1)
                ]
                features.append(max(0.0, *responses))
        sequence = np.maximum(dense @ np.array(features) + net.dense.bias.detach().numpy(), 0)
        np.testing.assert_allclose(found[place], np.concatenate([sequence, user[0].numpy()]), atol=1e-12)


def test_caser_without_a_history_scores_by_the_user_and_a_window_of_absent_items() -> None:
    """As place 0 of the paper's padding: zeros for all L items, the user's own embedding beside them."""
    torch.manual_seed(0)
    net = Caser(caser.Config(embedding_size=4, window=3, n_h=3, n_v=2), FACTS).double().eval()
    user = net.user.train_on(torch.tensor([1, 3])).mean(0)
    with torch.no_grad():
        net.item.weight[0] = 0.0  # an item that looks as an absent one does
        for empty in (torch.empty(2, 0, dtype=torch.long), torch.full((2, 5), -1)):
            found = net.scores(empty, torch.tensor([1, 3]))
            torch.testing.assert_close(found, net.scores(torch.zeros(2, 1, dtype=torch.long), torch.tensor([1, 3])))
            assert not torch.allclose(found[0], found[1])
        stranger = net.scores(torch.full((1, 5), -1))
        sequence = net._encode(torch.tensor([[0]]), user[None])[0, 0, :4]
        hidden = torch.cat([sequence, user])
        torch.testing.assert_close(stranger[0], (net.output.weight @ hidden + net.output_bias).float())
        net.item.weight[0] = 5.0
        torch.testing.assert_close(net.scores(torch.full((1, 5), -1)), stranger, msg="no item of the padding decides")


def test_gru_is_its_equations() -> None:
    """Gates as in the paper (reset, update, candidate), one place after another, without biases."""
    torch.manual_seed(0)
    net = Gru(gru4rec.Config(embedding_size=4, hidden_size=5), FACTS).double().eval()
    found = net._encode(torch.tensor([HISTORY]))[0].detach().numpy()
    into, back = (np.split(w.detach().numpy(), 3) for w in (net.gru.weight_ih_l0, net.gru.weight_hh_l0))
    state = np.zeros(5)
    for place, item in enumerate(HISTORY):
        x = net.item.weight[item].detach().numpy()
        reset, update = (1 / (1 + np.exp(-(into[gate] @ x + back[gate] @ state))) for gate in (0, 1))
        candidate = np.tanh(into[2] @ x + reset * (back[2] @ state))
        state = (1 - update) * candidate + update * state
        expected = net.dense.weight.detach().numpy() @ state + net.dense.bias.detach().numpy()
        np.testing.assert_allclose(found[place], expected, atol=1e-12)


@pytest.mark.parametrize("causal", [True, False])
def test_the_block_is_a_pre_norm_transformer_layer(causal: bool) -> None:
    torch.manual_seed(0)
    block = Block(Transformer(hidden_size=8, n_heads=2, inner_size=12)).eval()
    layer = nn.TransformerEncoderLayer(8, 2, 12, activation="gelu", batch_first=True, norm_first=True).eval()
    pairs = [(layer.self_attn.in_proj_weight, block.qkv.weight), (layer.self_attn.in_proj_bias, block.qkv.bias)]
    modules = ((layer.self_attn.out_proj, block.output), (layer.linear1, block.inner[0]), (layer.linear2, block.inner[2]),
               (layer.norm1, block.attention_norm), (layer.norm2, block.inner_norm))  # fmt: skip
    pairs += [pair for theirs, ours in modules for pair in zip(theirs.parameters(), ours.parameters(), strict=True)]
    with torch.no_grad():
        for theirs, ours in pairs:
            theirs.copy_(ours)
    hidden = torch.randn(3, 5, 8)
    seen = torch.arange(5) < torch.tensor([5, 2, 3])[:, None]
    if causal:
        found, expected = block(hidden), layer(hidden, src_mask=nn.Transformer.generate_square_subsequent_mask(5))
    else:
        found, expected = block(hidden, seen_BT=seen)[seen], layer(hidden, src_key_padding_mask=~seen)[seen]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("reg_weight", [0.0, 0.3])
def test_bpr_is_the_mean_over_pairs_whose_negative_the_user_does_not_have(reg_weight: float) -> None:
    torch.manual_seed(0)
    net = Bpr(bpr.Config(embedding_size=3, reg_weight=reg_weight), FACTS)
    nn.init.normal_(net.bias)
    user, item = torch.tensor([2, 0]), torch.tensor([[1, 5, 3], [7, 0, -1]])
    row, place = torch.tensor([0, 0, 1]), torch.tensor([1, 2, 0])
    negative = torch.tensor([[4, 5], [8, 2], [0, 6]])  # 5 and 0 are in their rows
    found = net.pair_loss(user, item, row, place, negative).item()
    losses = []
    for n in range(3):
        u = net.user.table.weight[user[row[n]]].detach().double().numpy()
        i = int(item[row[n], place[n]])
        for j in negative[n].tolist():
            if j in item[row[n]].tolist():
                continue
            q = net.item.weight.detach().double().numpy()
            b = net.bias.detach().double().numpy()
            margin = u @ q[i] + b[i] - u @ q[j] - b[j]
            losses.append(math.log(1 + math.exp(-margin)) + reg_weight * (u @ u + q[i] @ q[i] + q[j] @ q[j]))
    assert len(losses) == 4
    assert found == pytest.approx(np.mean(losses), rel=1e-5)


def test_bpr_takes_the_mean_of_recent_items_for_a_user_it_does_not_know() -> None:
    torch.manual_seed(0)
    net = Bpr(bpr.Config(embedding_size=3), FACTS).double()
    nn.init.normal_(net.bias)
    net.user.train_on(torch.tensor([1]))
    item, bias = net.item.weight.detach().numpy(), net.bias.detach().numpy()
    rows = [[4, 8], [2, 0, 1, 5, 6, 7, 3, 3]]
    history = torch.tensor([row + [-1] * (8 - len(row)) for row in rows])
    for user in (None, torch.tensor([0, -1])):
        found = net.scores(history, user).numpy(force=True)
        for row, scores in zip(rows, found, strict=True):
            mean = np.mean([item[i] for i in row[-LONGEST:]], axis=0)
            np.testing.assert_allclose(scores, [mean @ item[i] + bias[i] for i in range(ITEMS)], rtol=1e-5, atol=1e-6)
    known = net.scores(history, torch.tensor([1, 1]))
    torch.testing.assert_close(known[0], known[1])
