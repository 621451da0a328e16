"""A softmax over some tokens, and what is logged about layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from batches import VOCABULARY, a_batch, rewards_for
from conftest import llama, qwen2
from torch import Tensor

from ilrec_cli.errors import UserError
from ilrec_cli.lm import adapters, layer_probe
from ilrec_cli.lm.heads import LayerHeads
from ilrec_cli.lm.model import Rewards, SupervisedLM, final_norm
from ilrec_cli.methods.ilrec import Config
from ilrec_cli.methods.ilrec.loss import make_loss

LOSS: Any = make_loss(Config(alpha=0.3, beta=0.3, lambda_cpd=0.1))
SFT: Any = lambda final, inner, target, **_: LOSS(final, final[None], target)  # noqa: E731
SCOPE = torch.arange(3, VOCABULARY)[torch.arange(VOCABULARY - 3) % 5 != 4]


def narrow(seed: int = 0) -> tuple[Any, Rewards]:
    """A batch whose targets and rewards lie in the scope."""
    batch, _, _ = a_batch(seed=seed)
    batch = batch._replace(target_N=SCOPE[batch.target_N % len(SCOPE)])
    rewards = rewards_for(batch)
    inside = torch.isin(rewards.token_NC, SCOPE)
    value_NC = rewards.value_NC
    assert value_NC is not None
    return batch, Rewards(torch.where(inside, rewards.token_NC, -1), value_NC * inside)


def in_scope(final: Tensor, inner: Tensor, target: Tensor, **rewards: Any) -> Any:
    """The same loss by hand: whole logits, columns picked, tokens renumbered by a dictionary."""
    place = {token: column for column, token in enumerate(SCOPE.tolist())} | {-1: -1}
    tokens = rewards["reward_tokens_NC"]
    renumbered = torch.tensor([[place[token] for token in row] for row in tokens.tolist()])
    return LOSS(final[:, SCOPE], inner[:, :, SCOPE], torch.tensor([place[token] for token in target.tolist()]),
                **(rewards | {"reward_tokens_NC": renumbered}))  # fmt: skip


KINDS = {
    "llama": lambda: llama(),
    "qwen2 tied": lambda: qwen2(tie_word_embeddings=True),
    "lora": lambda: adapters.add(
        llama(), adapters.Lora(r=2, alpha=4, dropout=0.0, targets=("q_proj",)), [40, 41, 42], 0
    ),
}


@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_scope_is_a_softmax_over_its_columns(kind: str, detach: bool) -> None:
    batch, rewards = narrow()
    wide, scoped = (SupervisedLM(KINDS[kind](), (1, 2), detach_head=detach, scope_V=scope) for scope in (None, SCOPE))
    scoped.check_phi()
    expected, found = wide(batch, in_scope, rewards), scoped(batch, LOSS, rewards, 5)
    for name, (total, count) in {**expected.losses, **expected.stats}.items():
        other = {**found.losses, **found.stats}[name]
        torch.testing.assert_close(other[0], total, rtol=1e-5, atol=1e-5, msg=name)
        assert other[1] == count
    for terms in (expected, found):
        (terms.cpo + terms.cpd + terms.crr).backward()
    gradients = {name: parameter.grad for name, parameter in wide.named_parameters() if parameter.grad is not None}
    for name, parameter in scoped.named_parameters():
        if name in gradients:
            torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-3, atol=1e-4, msg=name)
    assert gradients


def test_a_scope_and_heads_of_layers_go_together() -> None:
    batch, rewards = narrow()
    wide, scoped = (
        SupervisedLM(model, (1, 2), layer_heads=LayerHeads((1, 2), final_norm(model), 4), scope_V=scope)
        for model, scope in ((llama(), None), (llama(), SCOPE))
    )
    expected, found = wide(batch, in_scope, rewards), scoped(batch, LOSS, rewards)
    torch.testing.assert_close(found.cpd, expected.cpd, rtol=1e-5, atol=0)
    assert "scope_V" not in scoped.state_dict(), "checkpoints of either kind have the same tensors"


def by_hand(backbone: Any, batch: Any, layer: int) -> tuple[Tensor, Tensor]:
    """(logits, cross-entropy) of a layer at the supervised positions."""
    full = backbone(input_ids=batch.input_BS, attention_mask=batch.mask_BS, output_hidden_states=True)
    states = full.hidden_states[layer]
    normed = states if layer == 3 else backbone.model.norm(states)  # the last one is normed already
    logits = backbone.lm_head(normed).flatten(0, 1)[batch.position_N]
    return logits, F.cross_entropy(logits, batch.target_N, reduction="sum")


@pytest.mark.parametrize(("layers", "loss"), [((), SFT), ((2,), LOSS)])
@pytest.mark.parametrize("chunk", [0, 7])
def test_probed_layers_have_their_own_cross_entropy(layers: tuple[int, ...], loss: Any, chunk: int) -> None:
    batch, _, _ = a_batch()
    backbone = llama()
    model = SupervisedLM(backbone, layers)
    model.probed_layers = (1, 2, 3)
    stats = model(batch, loss, None, chunk, True).stats
    with torch.no_grad():
        for layer in (1, 2, 3):
            total, count = stats[f"ce_layer_{layer}"]
            torch.testing.assert_close(total, by_hand(backbone, batch, layer)[1], rtol=1e-5, atol=0)
            assert count == len(batch.target_N)
            assert not total.requires_grad
    silent = model(batch, loss, None, chunk, False).stats
    assert not [name for name in silent if name.startswith("ce_layer") or name == "layer_agreement"]


def test_agreement_counts_layers_whose_likeliest_token_is_the_last_ones() -> None:
    batch, _, _ = a_batch(rows=8)
    backbone = llama()
    model = SupervisedLM(backbone, (1, 2))
    total, count = model(batch, LOSS, None, 5, True).stats["layer_agreement"]
    with torch.no_grad():
        best = [by_hand(backbone, batch, layer)[0].argmax(-1).tolist() for layer in (1, 2, 3)]
    expected = sum(inner[n] == best[2][n] for inner in best[:2] for n in range(len(batch.target_N)))
    assert (total, count) == (expected, 2 * len(batch.target_N))
    assert 0 < expected < count
    model = SupervisedLM(backbone, (2,))
    model.probed_layers = (1, 2, 3)  # only candidates are asked whether they agree
    assert model(batch, LOSS, None, 5, True).stats["layer_agreement"][1] == len(batch.target_N)


def test_other_steps_keep_no_states_for_the_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, _, _ = a_batch()
    model = SupervisedLM(llama())
    model.probed_layers = (1, 2)
    kept = []
    hidden = model.hidden
    monkeypatch.setattr(model, "hidden", lambda *inputs: kept.append(hidden(*inputs)) or kept[-1])
    for logged in (False, True):
        model(batch, SFT, None, 0, logged)
    assert [list(others) for _, _, others in kept] == [[], [1, 2]]


def test_a_probe_sees_a_layers_own_head() -> None:
    batch, _, _ = a_batch()
    backbone = llama()
    heads = LayerHeads((2,), final_norm(backbone), 4)
    with torch.no_grad():
        heads.heads[0].norm.weight.mul_(3)
    model = SupervisedLM(backbone, (2,), layer_heads=heads)
    model.probed_layers = (1, 2)
    stats = model(batch, LOSS, None, 0, True).stats
    with torch.no_grad():
        torch.testing.assert_close(stats["ce_layer_1"][0], by_hand(backbone, batch, 1)[1], rtol=1e-5, atol=0)
        expected = F.cross_entropy(3 * by_hand(backbone, batch, 2)[0], batch.target_N, reduction="sum")
    torch.testing.assert_close(stats["ce_layer_2"][0], expected, rtol=1e-5, atol=0)


def test_which_layers_are_probed() -> None:
    assert layer_probe.resolve((), 4) == ()
    assert layer_probe.resolve(("all",), 4) == (1, 2, 3, 4)
    assert layer_probe.resolve(("4", "2", "2"), 4) == (2, 4)
    for wrong in ("0", "5", "last", "-1"):
        with pytest.raises(UserError, match=f"--probe-layers {wrong}: expected all, or numbers from 1 to 4"):
            layer_probe.resolve(("1", wrong), 4)
