"""Item tokens, adapters, saving and opening: on Llama- and Qwen2-style models made on the spot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import llama, qwen2
from torch.nn import functional as F

from ilrec_cli.errors import UserError
from ilrec_cli.lm import adapters, backbone, tokenizer
from ilrec_cli.lm.adapters import Lora
from ilrec_cli.lm.backbone import Backbone, TinySize

TOKENS = [f"<a_{n}>" for n in range(5)]
LORA = Lora(r=4, alpha=8, dropout=0.0, targets=("q_proj", "v_proj"))
SIZE = TinySize(hidden_size=16, n_layers=2, n_heads=2, inner_size=32)


def saved_base(folder: Path, *, tied: bool, padding: int = 0) -> str:
    """A pretrained-style folder: tied Qwen2 with a padded vocabulary, or untied Llama."""
    tok = tokenizer.train(["some words to spell things with"], 300, adds_bos=not tied)
    make = qwen2 if tied else llama
    model = make(vocabulary=len(tok) + padding, layers=2, tie_word_embeddings=tied, initializer_range=0.02)
    model.save_pretrained(folder)
    tok.save_pretrained(folder)
    return str(folder)


@pytest.fixture(params=["untied", "tied", "tied-padded"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    tied = request.param != "untied"
    return saved_base(tmp_path / "base", tied=tied, padding=20 if "padded" in request.param else 0)


def opened(base: str) -> tuple[Backbone, list[int]]:
    found = backbone.load(base, torch.float32)
    return found, backbone.add_item_tokens(found, TOKENS, seed=0)


def one_step(model: Any, ids: torch.Tensor) -> None:
    """An update that touches every kind of weight there is."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    logits = model(input_ids=ids).logits
    F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    optimizer.step()


@pytest.mark.parametrize("name", backbone.TINY)
def test_tiny_backbones_start_from_the_seed(name: str) -> None:
    one, two, three = (backbone.build_tiny(name, SIZE, ["a few words"], seed) for seed in (0, 0, 1))
    for key, value in one.model.state_dict().items():
        assert torch.equal(value, two.model.state_dict()[key])
    assert not torch.equal(one.model.lm_head.weight, three.model.lm_head.weight)
    assert one.tokenizer.decode(one.tokenizer("héllo ☃ 日本", add_special_tokens=False).input_ids) == "héllo ☃ 日本"


def test_item_tokens_are_single_ids_with_rows_that_differ(base: str) -> None:
    before = backbone.load(base, torch.float32)
    old_rows = before.model.get_input_embeddings().weight.detach().clone()
    # Qwen's tokenizer class adds an unknown token of its own: one more than an unpadded toy base has rows for.
    old_length = len(before.tokenizer)
    known = min(old_length, len(old_rows))
    found, ids = opened(base)
    assert ids == list(range(old_length, old_length + 5))
    assert found.tokenizer("<a_3><a_0>", add_special_tokens=False).input_ids == [ids[3], ids[0]]
    weight = found.model.get_input_embeddings().weight
    assert len(weight) == max(len(old_rows), old_length + 5), "a padded vocabulary is used before it grows"
    assert torch.equal(weight[:known], old_rows[:known])
    assert found.model.config.get_text_config().vocab_size == len(weight)
    tied = found.model.get_output_embeddings().weight is weight
    assert tied == found.model.config.tie_word_embeddings
    rows = weight[ids].detach()
    spread = old_rows[:known].std(0).mean()
    assert 0.4 * spread < (rows[0] - rows[1]).abs().mean() < 3 * spread, "new rows start apart, at the old scale"


def test_tokens_that_exist_already_are_refused(base: str) -> None:
    found, _ = opened(base)
    with pytest.raises(UserError, match="already has the item token '<a_0>'"):
        backbone.add_item_tokens(found, TOKENS, seed=0)


def test_lora_trains_adapters_and_the_new_rows_only(base: str) -> None:
    found, ids = opened(base)
    plain = {name: value.clone() for name, value in found.model.state_dict().items()}
    backbone.add_lora(found, LORA, ids, seed=0)
    trained = sum(p.numel() for p in found.model.parameters() if p.requires_grad)
    width, matrices = 32, 1 if found.model.get_base_model().config.tie_word_embeddings else 2
    added = sum(p.numel() for n, p in found.model.named_parameters() if "lora_" in n)
    assert trained == added + matrices * len(ids) * width
    one_step(found.model, torch.tensor([[ids[0], 5, ids[1], ids[2], 6, ids[3], ids[4]]]))
    merged = adapters.merged(found.model)
    moved = {name for name, value in merged.state_dict().items() if not torch.equal(value, plain[name])}
    assert {name for name in moved if "q_proj" in name}, "adapters moved"
    head, embedding = merged.get_output_embeddings().weight, merged.get_input_embeddings().weight
    others = [row for row in range(len(head)) if row not in ids]
    for weight, name in ((head, "lm_head.weight"), (embedding, "model.embed_tokens.weight")):
        if name in plain:
            assert torch.equal(weight[others], plain[name][others]), "old rows stay"
            assert (weight[ids] != plain[name][ids]).any(1).all(), "every new row is trained, in and out"


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_saved_models_open_with_the_same_logits(base: str, lora: bool, tmp_path: Path) -> None:
    found, ids = opened(base)
    if lora:
        backbone.add_lora(found, LORA, ids, seed=0)
    probe = torch.tensor([[ids[0], 5, ids[1], 7]])
    one_step(found.model, probe)
    expected = found.model.eval()(input_ids=probe).logits
    backbone.save(found, tmp_path / "model")
    again = backbone.open_saved(tmp_path / "model", torch.float32)
    assert torch.equal(again.model.eval()(input_ids=probe).logits, expected)
    assert again.tokenizer.convert_tokens_to_ids(TOKENS) == ids
    size = sum(file.stat().st_size for file in (tmp_path / "model").glob("*.safetensors"))
    if lora:
        assert size < 60_000, "an adapter, without copies of the embedding matrices"


def test_a_full_model_is_a_plain_hugging_face_folder(base: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    found, ids = opened(base)
    backbone.save(found, tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    probe = torch.tensor([[ids[0], 5]])
    assert torch.equal(model.eval()(input_ids=probe).logits, found.model.eval()(input_ids=probe).logits)
    assert AutoTokenizer.from_pretrained(tmp_path / "model").convert_tokens_to_ids(TOKENS) == ids
    neutral = GenerationConfig.from_pretrained(tmp_path / "model")
    assert neutral.eos_token_id == found.tokenizer.eos_token_id
    assert not neutral.do_sample


def test_an_adapter_on_a_model_from_scratch_is_saved_merged(tmp_path: Path) -> None:
    found = backbone.build_tiny("tiny-llama", SIZE, ["words"], 0)
    ids = backbone.add_item_tokens(found, TOKENS, 0)
    backbone.add_lora(found, LORA, ids, 0)
    probe = torch.tensor([[ids[0], 5, ids[1]]])
    one_step(found.model, probe)
    expected = found.model.eval()(input_ids=probe).logits
    backbone.save(found, tmp_path / "model")
    again = backbone.open_saved(tmp_path / "model", torch.float32)
    torch.testing.assert_close(again.model.eval()(input_ids=probe).logits, expected, rtol=1e-4, atol=1e-5)


def test_the_depth_of_a_saved_model_wherever_its_configuration_keeps_it(base: str, tmp_path: Path) -> None:
    """At the top, in a configuration of text inside another, or in the base's folder."""
    from transformers import Gemma3Config

    found, ids = opened(base)
    backbone.add_lora(found, LORA, ids, seed=0)
    backbone.save(found, tmp_path / "adapter")
    assert not (tmp_path / "adapter" / "config.json").exists()
    assert backbone.saved_depth(tmp_path / "adapter") == backbone.saved_depth(Path(base)) == 2
    Gemma3Config(text_config={"num_hidden_layers": 7}).save_pretrained(tmp_path / "nested")
    assert "num_hidden_layers" not in json.loads((tmp_path / "nested" / "config.json").read_text())
    assert backbone.saved_depth(tmp_path / "nested") == 7
