"""Heads of layers: the identity at first, trained through CPD alone, saved, opened, decoded with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from batches import a_batch, rewards_for
from conftest import family, llama, qwen2
from torch import Tensor

from ilrec_cli.config import build
from ilrec_cli.errors import UserError
from ilrec_cli.lm.early_exit import early_exit
from ilrec_cli.lm.heads import LayerHeads, open_heads
from ilrec_cli.lm.model import SupervisedLM, final_norm
from ilrec_cli.methods.ilrec import Config
from ilrec_cli.methods.ilrec.loss import make_loss

CONFIG = Config(alpha=0.3, beta=0.3, layer_head="separate")


def with_heads(backbone: Any) -> SupervisedLM:
    return SupervisedLM(backbone, (1, 2), layer_heads=LayerHeads((1, 2), final_norm(backbone), 4))


def moved(model: SupervisedLM) -> LayerHeads:
    """Heads that are no longer the identity."""
    heads = model.layer_heads
    assert heads is not None
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in heads.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return heads


@pytest.mark.parametrize("backbone", [llama, qwen2])
def test_they_start_as_the_shared_head(backbone: Any) -> None:
    batch, _, _ = a_batch()
    loss = make_loss(CONFIG)
    shared = SupervisedLM(backbone(), (1, 2))(batch, loss, rewards_for(batch))
    separate = with_heads(backbone())(batch, loss, rewards_for(batch))
    for name, (total, _) in shared.losses.items():
        torch.testing.assert_close(separate.losses[name][0], total, rtol=1e-6, atol=0)


@pytest.mark.parametrize("tied", [False, True])
def test_only_cpd_trains_them_and_it_leaves_the_shared_head_alone(tied: bool) -> None:
    batch, _, _ = a_batch()
    model = with_heads(llama(tie_word_embeddings=tied))
    moved(model)
    terms = model(batch, make_loss(CONFIG), rewards_for(batch))
    own = dict(model.layer_heads.named_parameters()) if model.layer_heads else {}
    assert len(own) == 6
    for term in (terms.cpo, terms.crr):
        found = torch.autograd.grad(term, list(own.values()), retain_graph=True, allow_unused=True)
        assert all(gradient is None for gradient in found)
    terms.cpd.backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in own.values())
    assert model.backbone.model.norm.weight.grad is None
    assert tied or model.backbone.lm_head.weight.grad is None
    assert model.backbone.model.layers[0].mlp.up_proj.weight.grad.any(), "the layers below learn"


def test_logits_are_w_times_the_adapted_norm_of_each_layer() -> None:
    batch, _, _ = a_batch()
    model = with_heads(llama())
    heads = moved(model)
    seen: dict[str, Tensor] = {}

    def capture(final_NV: Tensor, inner_KNV: Tensor, target_N: Tensor, **_: Any) -> Any:
        seen.update(inner=inner_KNV)
        return make_loss(CONFIG)(final_NV, inner_KNV, target_N)

    model(batch, capture)
    states = model.backbone(
        input_ids=batch.input_BS, attention_mask=batch.mask_BS, output_hidden_states=True
    ).hidden_states
    for place, layer in enumerate((1, 2)):
        head: Any = heads.heads[place]
        hidden = states[layer].flatten(0, 1)[batch.position_N].double()
        normed = hidden * (hidden.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * head.norm.weight.double()
        width = hidden.shape[1]
        whole = model.backbone.lm_head.weight.double() @ (
            torch.eye(width, dtype=torch.float64) + head.up_DR.double() @ head.down_RD.double()
        )
        torch.testing.assert_close(seen["inner"][place].double(), normed @ whole.T, rtol=1e-4, atol=1e-4)


def test_saved_and_opened_they_decode_with_their_layer(tmp_path: Path) -> None:
    model = with_heads(llama())
    heads = moved(model)
    heads.save(tmp_path)
    found = open_heads(tmp_path, final_norm(model.backbone))
    assert found is not None
    assert found.layers == (1, 2)
    assert all(torch.equal(value, found.state_dict()[name]) for name, value in heads.state_dict().items())
    ids = torch.tensor([[3, 4, 5, 6]])
    with torch.no_grad():
        state = model.backbone(input_ids=ids, output_hidden_states=True).hidden_states[2]
        expected = model.layer_logits(2, state[0])
        exit_logits = early_exit(model.backbone, 2, found.of(2))(input_ids=ids).logits[0]
        shared = early_exit(model.backbone, 2)(input_ids=ids).logits[0]
    torch.testing.assert_close(exit_logits, expected)
    assert not torch.allclose(shared, expected, atol=0.1)
    assert (found.of(1), found.of(2), found.of(3)) == (*found.heads, None)
    assert open_heads(tmp_path / "none", final_norm(model.backbone)) is None


def test_low_precision_models_get_heads_in_float32() -> None:
    heads = LayerHeads((1,), final_norm(llama().bfloat16()), 4)
    assert {parameter.dtype for parameter in heads.parameters()} == {torch.float32}
    assert heads(torch.randn(1, 5, 32, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_a_norm_without_weights_cannot_be_copied() -> None:
    backbone = family("Olmo")
    SupervisedLM(backbone, (1, 2)).check_phi()
    with pytest.raises(UserError, match="OlmoLayerNorm has no weights; use layer_head = shared"):
        LayerHeads((1, 2), final_norm(backbone), 4)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"lambda_cpd": "0"}, "lambda_cpd must be above 0"),
        ({"detach_head": "true"}, "leave detach_head out"),
        ({"layer_head_rank": "0"}, "layer_head_rank is 0"),
    ],
)
def test_settings_that_could_not_train_them_are_refused(settings: dict[str, str], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        build(Config, {"layer_head": "separate", **settings}, "method 'ilrec'")
    assert replace(CONFIG, lambda_cpd=0.1).layer_head == "separate"
