"""SupervisedLM: phi is the model's own head, chunks add up, only labelled positions count."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from batches import VOCABULARY, a_batch, rewards_for
from conftest import llama, qwen2, random_model
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ilrec_cli.errors import UserError
from ilrec_cli.lm.model import Rewards, SupervisedLM, decoder
from ilrec_cli.methods.ilrec import Config
from ilrec_cli.methods.ilrec.loss import make_loss

LOSS: Any = make_loss(Config(alpha=0.3, beta=0.3))


def gemma2(**settings: Any) -> Any:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    return random_model(
        Gemma2Config, Gemma2ForCausalLM, VOCABULARY, 3, 32, 0, head_dim=8, final_logit_softcapping=2.0, **settings
    )


def granite(**settings: Any) -> Any:
    from transformers import GraniteConfig, GraniteForCausalLM

    return random_model(GraniteConfig, GraniteForCausalLM, VOCABULARY, 3, 32, 0, logits_scaling=8.0, **settings)


def cohere(**settings: Any) -> Any:
    from transformers import CohereConfig, CohereForCausalLM

    return random_model(CohereConfig, CohereForCausalLM, VOCABULARY, 3, 32, 0, logit_scale=0.0625, **settings)


def mistral(**settings: Any) -> Any:
    from transformers import MistralConfig, MistralForCausalLM

    return random_model(MistralConfig, MistralForCausalLM, VOCABULARY, 3, 32, 0, sliding_window=None, **settings)


def gpt2(**settings: Any) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=3, n_head=4, bos_token_id=0, eos_token_id=1)
    ).eval()


MODELS = {
    "llama": llama,
    "qwen2": qwen2,
    "gemma2": gemma2,
    "granite": granite,
    "cohere": cohere,
    "mistral": mistral,
    "gpt2": gpt2,
}


@pytest.mark.parametrize("name", MODELS)
def test_phi_of_the_last_hidden_state_is_the_models_logits(name: str) -> None:
    backbone = MODELS[name]()
    model = SupervisedLM(backbone, (1, 2))
    model.check_phi()
    ids = torch.randint(3, VOCABULARY, (2, 7))
    expected = backbone(input_ids=ids).logits
    hidden = decoder(backbone)(input_ids=ids, output_hidden_states=True)
    final, inner = model.phi(
        hidden.last_hidden_state.flatten(0, 1), torch.stack([hidden.hidden_states[2].flatten(0, 1)])
    )
    torch.testing.assert_close(final.view_as(expected), expected, rtol=0, atol=2e-6 * expected.abs().max().item())
    # The raw output of the last block, normed by phi, is the same again: inner layers get the whole of phi.
    raw: list[Tensor] = []
    blocks = decoder(backbone).layers if hasattr(decoder(backbone), "layers") else decoder(backbone).h
    blocks[-1].register_forward_hook(
        lambda _, __, output: raw.append(output[0] if isinstance(output, tuple) else output)
    )
    backbone(input_ids=ids)
    again = model.phi(hidden.last_hidden_state.flatten(0, 1), raw[0].flatten(0, 1)[None])[1][0]
    torch.testing.assert_close(again.view_as(expected), expected, rtol=0, atol=2e-6 * expected.abs().max().item())
    assert not torch.allclose(inner[0], final), "an inner layer is another distribution"


def test_a_head_that_phi_does_not_know_is_refused() -> None:
    backbone = llama()
    original = backbone.forward
    backbone.forward = lambda **inputs: _scaled(original(**inputs))
    with pytest.raises(UserError, match="its logits are not its head's product"):
        SupervisedLM(backbone, (1,)).check_phi()


def _scaled(output: Any) -> Any:
    output.logits = output.logits * 2
    return output


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_gathered_logits_are_those_of_the_full_forward(name: str) -> None:
    backbone = MODELS[name]()
    batch, labels_BS, _ = a_batch()
    seen: dict[str, Tensor] = {}

    def capture(final_NV: Tensor, inner_KNV: Tensor, target_N: Tensor, **_: Any) -> Any:
        seen.update(final=final_NV, inner=inner_KNV)
        return LOSS(final_NV, inner_KNV, target_N)

    terms = SupervisedLM(backbone, (1, 2))(batch, capture)
    full = backbone(input_ids=batch.input_BS, attention_mask=batch.mask_BS, output_hidden_states=True)
    shifted = full.logits[:, :-1][labels_BS[:, 1:] != -100]
    torch.testing.assert_close(seen["final"], shifted, rtol=1e-5, atol=1e-5)
    for place, layer in enumerate((1, 2)):
        inner = backbone.lm_head(backbone.model.norm(full.hidden_states[layer]))[:, :-1][labels_BS[:, 1:] != -100]
        torch.testing.assert_close(seen["inner"][place], inner, rtol=1e-5, atol=1e-5)
    expected = F.cross_entropy(full.logits[:, :-1].flatten(0, 1), labels_BS[:, 1:].flatten(), reduction="sum")
    torch.testing.assert_close(terms.ce, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", MODELS)
def test_padding_at_the_end_needs_no_mask(name: str) -> None:
    """The supervised positions of a batch as with the mask that `transformers` is meant to be given."""
    backbone = MODELS[name]()
    batch, _, _ = a_batch()
    assert not batch.mask_BS.all()
    last_ND, inner_KND, _ = SupervisedLM(backbone, (1, 2)).hidden(batch)
    masked = decoder(backbone)(input_ids=batch.input_BS, attention_mask=batch.mask_BS, output_hidden_states=True)
    for found_ND, states in (
        (last_ND, masked.last_hidden_state),
        *zip(inner_KND, masked.hidden_states[1:3], strict=True),
    ):
        torch.testing.assert_close(found_ND, states.flatten(0, 1)[batch.position_N], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("chunk", [None, 7])
def test_a_pass_asks_for_no_value_of_its_own(chunk: int | None) -> None:
    """What a GPU would have to be waited for: values as Python numbers, and shapes that depend on values.

    `transformers` asks for one: whether several sequences are packed into a row.
    """
    batch, _, _ = a_batch()
    rewards = rewards_for(batch)
    model = SupervisedLM(llama(), (1, 2)).train()
    with Watch() as pass_:
        sum(pair[0] for pair in model(batch, LOSS, rewards, chunk).losses.values()).backward()
    assert len(pass_.asked) == 1


class Watch(TorchDispatchMode):
    """Collects the calls whose result, or its shape, a device must be asked for."""

    NAMES = (
        "_local_scalar_dense",
        "nonzero",
        "masked_select",
        "is_nonzero",
        "equal",
        "repeat_interleave",
        "_unique2",
        "bincount",
    )

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def __torch_dispatch__(self, call: Any, types: Any, arguments: Any = (), more: Any = None) -> Any:
        name = call.overloadpacket.__name__
        by_mask = name.startswith("index") and any(
            isinstance(index, Tensor) and index.dtype == torch.bool
            for part in arguments if isinstance(part, list | tuple) for index in part
        )  # fmt: skip
        if name in self.NAMES or by_mask:
            self.asked.append(name)
        return call(*arguments, **(more or {}))


@pytest.mark.parametrize(
    "ask",
    [
        lambda x: int(x.sum()),
        lambda x: x[x > 0],
        lambda x: x.index_put((x > 0,), torch.zeros(())),
        lambda x: x.nonzero(),
        lambda x: torch.masked_select(x, x > 0),
        lambda x: x.unique(),
        lambda x: bool((x > 0).all()),
        lambda x: torch.equal(x, x + 1),
        lambda x: x.repeat_interleave((x > 0).long()),
    ],
)
def test_the_watch_sees_what_it_is_meant_to_see(ask: Any) -> None:
    with Watch() as watch:
        ask(torch.arange(3.0))
    assert watch.asked


def test_a_pass_has_no_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one, kernels for causal attention are not taken."""
    batch, _, _ = a_batch()
    model = SupervisedLM(llama(), (1, 2))
    given: dict[str, Any] = {}
    decoder(model.backbone).register_forward_pre_hook(lambda _, __, more: given.update(more), with_kwargs=True)
    model.hidden(batch)
    assert given.get("attention_mask") is None
    assert torch.equal(given["input_ids"], batch.input_BS)


def test_a_backbone_that_sees_later_tokens_is_refused() -> None:
    backbone = llama()
    SupervisedLM(backbone, ()).check_phi()
    backbone.config.is_causal = False
    for block in backbone.model.layers:
        block.self_attn.is_causal = False
    with pytest.raises(UserError, match="a causal model is needed"):
        SupervisedLM(backbone, ()).check_phi()


@pytest.mark.parametrize("chunk", [0, 7])
def test_no_supervised_position_gives_zero_terms_with_a_gradient(chunk: int) -> None:
    """What a process without rows of its own runs in data-parallel training."""
    model = SupervisedLM(llama(), (1, 2))
    batch, _, _ = a_batch()
    none = batch._replace(
        **{name: getattr(batch, name)[:0] for name in ("position_N", "target_N", "node_N", "event_N")}
    )
    terms = model(none, LOSS, Rewards(torch.zeros(0, 4, dtype=torch.long), torch.zeros(0, 4)), chunk)
    total = terms.cpo + terms.cpd + terms.crr
    total.backward()
    assert total.item() == 0
    assert (terms.tokens, terms.crr_tokens) == (0, 0)
    assert all(not parameter.grad.any() for parameter in model.parameters() if parameter.grad is not None)


def test_sft_needs_no_norm_that_ilrec_knows() -> None:
    backbone = gpt2()
    backbone.transformer.ln_final, backbone.transformer.ln_f = backbone.transformer.ln_f, torch.nn.Identity()
    batch, _, _ = a_batch()
    del backbone.transformer.ln_f
    backbone.transformer.forward = lambda **inputs: _without_norm(backbone.transformer, inputs)
    terms = SupervisedLM(backbone)(batch, lambda final, inner, target, **_: LOSS(final, final[None], target))
    assert terms.tokens == len(batch.target_N)


def _without_norm(stack: Any, inputs: dict[str, Any]) -> Any:
    from types import SimpleNamespace

    return SimpleNamespace(last_hidden_state=stack.wte(inputs["input_ids"]))


def test_detach_head_keeps_cpd_out_of_norm_and_head() -> None:
    batch, _, _ = a_batch()
    for detach in (False, True):
        model = SupervisedLM(llama(), (1, 2), detach_head=detach)
        model(batch, LOSS).cpd.backward()
        head, norm = model.backbone.lm_head.weight.grad, model.backbone.model.norm.weight.grad
        assert (head is None) == detach
        assert (norm is None) == detach
        assert model.backbone.model.layers[0].mlp.up_proj.weight.grad.abs().sum() > 0
        last = [p.grad for p in model.backbone.model.layers[2].parameters()]
        assert all(grad is None or not grad.any() for grad in last), "the teacher is fixed"


def test_dropout_acts_in_training_only_and_changes_no_weights() -> None:
    batch, _, _ = a_batch()
    plain, dropping = SupervisedLM(llama(), (2,)), SupervisedLM(llama(), (2,), dropout=0.5)
    assert torch.equal(plain.eval()(batch, LOSS).cpo, dropping.eval()(batch, LOSS).cpo)
    assert plain.state_dict().keys() == dropping.state_dict().keys()
    torch.manual_seed(0)
    first = dropping.train()(batch, LOSS).cpo
    assert first != dropping(batch, LOSS).cpo
    assert plain.train()(batch, LOSS).cpo == plain.eval()(batch, LOSS).cpo


def test_layers_outside_the_model_are_a_bug() -> None:
    for layers in ((0,), (3,), (-1,)):
        with pytest.raises(ValueError, match="layers"):
            SupervisedLM(llama(), layers)


@pytest.mark.parametrize("scope", [None, torch.arange(3, VOCABULARY)])
def test_chunks_chosen_by_the_model_bound_the_logits_and_change_nothing(
    scope: Tensor | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, _, _ = a_batch()
    sizes: list[int] = []

    def counted(final_NV: Tensor, inner_KNV: Tensor, target_N: Tensor, **rewards: Any) -> Any:
        sizes.append(final_NV.numel() + inner_KNV.numel())
        return LOSS(final_NV, inner_KNV, target_N, **rewards)

    model = SupervisedLM(llama(), (1, 2), scope_V=scope)
    whole = model(batch, counted, rewards_for(batch))
    width = VOCABULARY if scope is None else len(scope)
    assert sizes == [3 * len(batch.target_N) * width], "a small batch is one chunk"
    budget = 3 * width * 5 + 1  # of five positions, and not quite six
    monkeypatch.setattr("ilrec_cli.lm.model.CHUNK_LOGITS", budget)
    sizes.clear()
    parts = model(batch, counted, rewards_for(batch))
    assert len(sizes) == -(-len(batch.target_N) // 5)
    assert max(sizes) <= budget
    assert max(sizes[:-1]) == min(sizes[:-1]), "even chunks"
    for name, (value, count) in whole.losses.items():
        torch.testing.assert_close(parts.losses[name][0], value, rtol=2e-6, atol=1e-6)
        assert parts.losses[name][1] == count
