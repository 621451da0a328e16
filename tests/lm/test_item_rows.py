"""New rows beside a frozen matrix: the same model, the gradients of a fully trained one, nothing else moves."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from batches import VOCABULARY, a_batch
from conftest import llama, qwen2, random_model
from torch import Tensor, nn

from ilrec_cli import checkpoint
from ilrec_cli.errors import UserError
from ilrec_cli.lm import adapters, item_rows
from ilrec_cli.lm.adapters import Lora
from ilrec_cli.lm.model import SupervisedLM
from ilrec_cli.methods.ilrec import Config
from ilrec_cli.methods.ilrec.loss import make_loss

IDS = list(range(VOCABULARY - 9, VOCABULARY - 2))  # two rows of padding come after them
LORA = Lora(r=4, alpha=8, dropout=0.0, targets=("q_proj", "v_proj"))
LOSS: Any = make_loss(Config(alpha=0.3, beta=0.3))


def gemma3(**settings: Any) -> Any:
    """Its embedding multiplies what it looks up; here the looked-up token may be a padding token, too."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    return random_model(Gemma3TextConfig, Gemma3ForCausalLM, VOCABULARY, 3, 32, 0, head_dim=8, **settings)


def phi(**settings: Any) -> Any:
    """Its head has a bias."""
    from transformers import PhiConfig, PhiForCausalLM

    model = random_model(PhiConfig, PhiForCausalLM, VOCABULARY, 3, 32, 0, **settings)
    nn.init.normal_(model.lm_head.bias)
    return model


MODELS = {
    "llama": lambda: llama(VOCABULARY, pad_token_id=IDS[1]), "llama-tied": lambda: llama(VOCABULARY, tie_word_embeddings=True),
    "qwen2": lambda: qwen2(VOCABULARY), "qwen2-tied": lambda: qwen2(VOCABULARY, tie_word_embeddings=True), "gemma3": gemma3, "phi": phi,
}  # fmt: skip
RANDOM_IDS = torch.arange(VOCABULARY).view(2, -1)  # every token once


def with_rows(model: Any) -> Any:
    """A copy that trains its rows of IDS alone."""
    made = copy.deepcopy(model).requires_grad_(False)
    item_rows.install(made, IDS)
    return made


def total(model: Any, *, detach_head: bool = False, chunk: int = 0) -> Tensor:
    batch, _, _ = a_batch()
    terms = SupervisedLM(model, (1, 2), detach_head=detach_head)(batch, LOSS, None, chunk)
    return terms.cpo + terms.cpd


@pytest.mark.parametrize("name", MODELS)
def test_new_modules_change_no_logit_and_merge_back(name: str) -> None:
    plain = MODELS[name]()
    made = with_rows(plain)
    expected = plain(input_ids=RANDOM_IDS).logits
    torch.testing.assert_close(
        made(input_ids=RANDOM_IDS).logits, expected, rtol=0, atol=1e-5 * expected.abs().max().item()
    )
    tied = plain.get_output_embeddings().weight is plain.get_input_embeddings().weight
    assert len(item_rows.installed(made)) == 2 - tied
    for rows_nD in item_rows.installed(made).values():
        nn.init.normal_(rows_nD)
    moved = made(input_ids=RANDOM_IDS).logits
    assert not torch.allclose(moved, expected)
    item_rows.merge(made)
    merged = made(input_ids=RANDOM_IDS).logits
    torch.testing.assert_close(merged, moved, rtol=0, atol=1e-5 * moved.abs().max().item())
    assert type(made.get_input_embeddings()) is type(plain.get_input_embeddings())
    assert (made.get_output_embeddings().weight is made.get_input_embeddings().weight) == tied
    assert made.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("detach_head", [False, True], ids=["shared-head", "detached-head"])
@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_those_of_a_full_model_in_these_rows(name: str, detach_head: bool) -> None:
    plain = MODELS[name]().double()
    made = with_rows(plain)
    ours, theirs = total(made, detach_head=detach_head), total(plain, detach_head=detach_head)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    ours.backward()
    theirs.backward()
    matrices = [module.weight for module in (plain.get_input_embeddings(), plain.get_output_embeddings())]
    found = list(item_rows.installed(made).values())
    for weight_VD, rows_nD in zip(matrices, found, strict=False):
        expected = weight_VD.grad[IDS]
        if weight_VD is matrices[0] and (padding := plain.get_input_embeddings().padding_idx) in IDS:
            expected[IDS.index(padding)] = rows_nD.grad[
                IDS.index(padding)
            ]  # torch leaves out this row's gradient; we do not
        assert expected.abs().max() > 0
        torch.testing.assert_close(rows_nD.grad, expected, rtol=1e-9, atol=1e-12)
    assert all(p.grad is None for n, p in made.named_parameters() if "rows_nD" not in n)


@pytest.mark.parametrize("name", ["llama", "qwen2-tied"])
def test_chunks_and_gradient_checkpointing_change_no_gradient(name: str) -> None:
    gradients = []
    for chunk, recompute in ((0, False), (5, False), (0, True)):
        adapted = adapters.add(MODELS[name]().double(), LORA, IDS, seed=0).train()
        for part, parameter in adapted.named_parameters():
            if "lora_B" in part:
                nn.init.constant_(parameter, 0.01)
        if recompute:
            adapted.gradient_checkpointing_enable()
        total(adapted, chunk=chunk).backward()
        gradients.append({part: p.grad for part, p in adapted.named_parameters() if p.requires_grad})
    assert sum("rows_nD" in part for part in gradients[0]) == (1 if "tied" in name else 2), (
        "shared rows are one parameter"
    )
    for other in gradients[1:]:
        for part, gradient in gradients[0].items():
            torch.testing.assert_close(other[part], gradient, rtol=1e-9, atol=1e-12)


def test_ddp_averages_the_rows(tmp_path: Path) -> None:
    import torch.distributed as dist

    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        adapted = adapters.add(MODELS["qwen2-tied"](), LORA, IDS, seed=0)
        alone = copy.deepcopy(adapted)
        batch, _, _ = a_batch()
        wrapped = nn.parallel.DistributedDataParallel(SupervisedLM(adapted, (1, 2)))
        for _ in range(2):  # a second pass would complain of parameters that the first left out
            wrapped(batch, LOSS).cpo.backward()
            SupervisedLM(alone, (1, 2))(batch, LOSS).cpo.backward()
        for ours, theirs in zip(adapted.parameters(), alone.parameters(), strict=True):
            if ours.requires_grad:
                torch.testing.assert_close(ours.grad, theirs.grad)
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("name", ["llama", "qwen2-tied"])
def test_a_bfloat16_base_stays_and_rows_are_float32(name: str, tmp_path: Path) -> None:
    model = MODELS[name]().to(torch.bfloat16)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    adapted = adapters.add(model, LORA, IDS, seed=0)
    wrapped = SupervisedLM(adapted, (1, 2))
    formats = {n: p.dtype for n, p in wrapped.named_parameters() if p.requires_grad}
    assert set(formats.values()) == {torch.float32}
    optimizer = torch.optim.AdamW([p for p in wrapped.parameters() if p.requires_grad], lr=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = wrapped(a_batch()[0], LOSS)
    terms.cpo.backward()
    started = {n: p.detach().clone() for n, p in checkpoint.trainable(wrapped).items()}
    optimizer.step()
    moved = {n for n, p in checkpoint.trainable(wrapped).items() if not torch.equal(p, started[n])}
    assert {n for n in moved if "rows_nD" in n}, "a step too small for bfloat16 is not lost"
    for key, value in adapted.get_base_model().state_dict().items():
        plain = key.replace(".old.", ".").replace(".base_layer.", ".")
        if plain in before:
            assert value.dtype == torch.bfloat16
            assert torch.equal(value, before[plain]), key
    # What is trained is what a checkpoint holds, and it comes back to the bit.
    checkpoint.save(tmp_path / "c.safetensors", wrapped, optimizer, {"step": 1})
    again = SupervisedLM(adapters.add(MODELS[name]().to(torch.bfloat16), LORA, IDS, seed=1), (1, 2))
    second = torch.optim.AdamW([p for p in again.parameters() if p.requires_grad], lr=1e-4)
    assert checkpoint.load(tmp_path / "c.safetensors", again, second) == {"step": 1}
    for part, parameter in checkpoint.trainable(again).items():
        assert torch.equal(parameter, checkpoint.trainable(wrapped)[part])


@pytest.mark.parametrize("name", ["llama", "qwen2-tied", "phi"])
def test_rows_of_some_tokens_are_those_of_the_whole_head(name: str) -> None:
    plain = MODELS[name]()
    token_C = torch.tensor([3, *IDS[1:3], 0, IDS[-1], VOCABULARY - 1])
    for model in (plain, with_rows(plain)):
        head = model.get_output_embeddings()
        hidden = torch.randn(5, 32)
        weight_CD, bias_C = item_rows.head_rows(head, token_C)
        found = nn.functional.linear(hidden, weight_CD, bias_C)
        torch.testing.assert_close(found, head(hidden)[:, token_C], rtol=1e-5, atol=1e-5)
        assert torch.equal(head.weight[token_C], weight_CD)
    found.sum().backward()
    assert head.rows_nD.grad[[1, 2, 6]].abs().min() > 0
    assert not head.rows_nD.grad[[0, 3, 4, 5]].any()


def test_gaps_and_odd_embeddings_are_refused() -> None:
    with pytest.raises(ValueError, match="expected consecutive"):
        item_rows.install(llama(), [5, 7])
    model = llama()
    model.model.embed_tokens.register_forward_hook(lambda _, __, output: output * 2)
    with pytest.raises(UserError, match="more than a row"):
        item_rows.install(model, [5, 6])
    with pytest.raises(UserError, match=r"Adapters go on layers between.*--lora-targets"):
        adapters.add(llama(), Lora(r=2, alpha=2, dropout=0.0, targets=("lm_head",)), IDS, 0)
    with pytest.raises(UserError, match="LoRA: .*not found.*--lora-targets"):
        adapters.add(llama(), Lora(r=2, alpha=2, dropout=0.0, targets=("no_proj",)), IDS, 0)
    with pytest.raises(UserError, match=r"no layer is called 'v_porj'; those of the others are q_proj$"):
        adapters.add(llama(), Lora(r=2, alpha=2, dropout=0.0, targets=("q_proj", "v_porj")), IDS, 0)
    with pytest.raises(UserError, match="all-linear stands alone"):
        adapters.add(llama(), Lora(r=2, alpha=2, dropout=0.0, targets=("all-linear", "q_proj")), IDS, 0)
    adapters.add(llama(), Lora(r=2, alpha=2, dropout=0.0, targets=("self_attn.q_proj", "v_proj")), IDS, 0)
