"""The shapes of real checkpoints, tiny: loaded by name from a folder, trained a step with LoRA, saved, opened, merged."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from batches import VOCABULARY, a_batch
from conftest import llama, random_model

from ilrec_cli.errors import UserError
from ilrec_cli.lm import adapters, backbone, hub, item_rows, quantised, tokenizer
from ilrec_cli.lm.adapters import Lora
from ilrec_cli.lm.model import SupervisedLM
from ilrec_cli.methods.ilrec import Config
from ilrec_cli.methods.ilrec.loss import make_loss

TOKENS = [f"<a_{n}>" for n in range(6)]
LOSS: Any = make_loss(Config(alpha=0.3, beta=0.3))
CHAT = "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}{% endfor %}"
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64, "rope_theta": 5e5}  # fmt: skip
# name -> (class, what sets the family apart, rows that pad its vocabulary, whether its tokenizer adds a start token)
FAMILIES: dict[str, tuple[str, dict[str, Any], int, bool]] = {
    "llama-3.1-8b": ("Llama", {"rope_parameters": LLAMA3, "tie_word_embeddings": False}, 0, True),
    "llama-3.2-1b": ("Llama", {"rope_parameters": LLAMA3, "tie_word_embeddings": True, "head_dim": 8}, 0, True),
    "qwen2-0.5b": ("Qwen2", {"tie_word_embeddings": True}, 21, False),
    "qwen2.5-7b": ("Qwen2", {"tie_word_embeddings": False}, 3, False),
    "qwen3-4b": ("Qwen3", {"tie_word_embeddings": True, "head_dim": 16}, 21, False),
    "mistral-7b": ("Mistral", {"tie_word_embeddings": False, "sliding_window": 64}, 0, True),
    "gemma-2-2b": ("Gemma2", {"head_dim": 8, "sliding_window": 64, "final_logit_softcapping": 3.0}, 0, True),
    "gemma-3-1b": ("Gemma3", {"head_dim": 8, "sliding_window": 64}, 0, True),
}  # fmt: skip


def checkpoint_of(name: str, folder: Path, **saving: Any) -> str:
    """A folder as on the Hub: bfloat16 weights, a tokenizer with a chat template, the base's taste in sampling."""
    import transformers

    family, settings, padding, adds_bos = FAMILIES[name]
    config = getattr(transformers, f"{family}{'Text' if family == 'Gemma3' else ''}Config")
    tok = tokenizer.train(["some words to spell things with"], 300, adds_bos=adds_bos)
    tok.chat_template = CHAT
    model = random_model(
        config, getattr(transformers, f"{family}ForCausalLM"), len(tok) + padding, 3, 32, 0, **settings
    )
    model.generation_config.update(temperature=0.6, top_p=0.9, do_sample=True)
    model.to(torch.bfloat16).save_pretrained(folder, **saving)
    tok.save_pretrained(folder)
    return str(folder)


def logits(model: Any, ids: list[int]) -> torch.Tensor:
    probe = torch.tensor([[5, ids[0], 9, ids[2], ids[5], 7]])
    with torch.no_grad():
        return model.eval()(input_ids=probe).logits


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_trains_saves_opens_and_merges(name: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = checkpoint_of(name, tmp_path / "base", max_shard_size="40KB")
    assert (tmp_path / "base" / "model.safetensors.index.json").is_file(), "in several files"
    opened = backbone.load(base, torch.float32)
    old = [weight.clone() for weight in item_rows.matrices(opened.model)]
    tied, padded = len(old) == 1, FAMILIES[name][2] >= len(TOKENS) + 1
    ids = backbone.add_item_tokens(opened, TOKENS, seed=0)
    assert (len(item_rows.matrices(opened.model)[0]) == len(old[0])) == padded
    backbone.add_lora(
        opened, Lora(r=4, alpha=8, dropout=0.0, targets=("all-linear",), rank_stabilised=True), ids, seed=0
    )
    model = SupervisedLM(opened.model, (1, 2))
    model.check_phi()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    model(batch_with(ids), LOSS).cpo.backward()
    optimizer.step()
    expected = logits(opened.model, ids)

    backbone.save(opened, tmp_path / "run")
    again = backbone.open_saved(tmp_path / "run", torch.float32)
    assert torch.equal(logits(again.model, ids), expected)
    assert not [part for part, parameter in again.model.named_parameters() if parameter.requires_grad]

    backbone.merge(again)
    backbone.save_plain(again, tmp_path / "plain")
    plain, found = AutoModelForCausalLM.from_pretrained(
        tmp_path / "plain", dtype=torch.float32, output_loading_info=True
    )
    assert not any(found.values())
    assert (logits(plain, ids) - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert plain.config.tie_word_embeddings == tied
    assert not plain.generation_config.do_sample
    assert plain.generation_config.temperature in (None, 1.0), "nothing of the base's sampling"
    known = range(min(len(old[0]), ids[0]))
    for before, after in zip(old, item_rows.matrices(plain), strict=True):
        assert torch.equal(after[known], before[known]), "old rows stay"
        assert not torch.isclose(after[ids], opened.model.get_base_model().get_input_embeddings().old.weight[ids]).all()
    tok = AutoTokenizer.from_pretrained(tmp_path / "plain")
    assert tok.convert_tokens_to_ids(TOKENS) == ids
    assert tok.chat_template == CHAT


def batch_with(ids: list[int]) -> Any:
    """The shared batch with its last tokens replaced by new ones: inputs and targets."""
    batch, _, _ = a_batch()
    swap = torch.arange(VOCABULARY)
    swap[-len(ids) :] = torch.tensor(ids)
    swap[3 : 3 + len(ids)] = torch.tensor(ids)
    return batch._replace(input_BS=swap[batch.input_BS], target_N=swap[batch.target_N])


def test_stock_peft_opens_a_saved_adapter(tmp_path: Path) -> None:
    """On a base whose embeddings were given their rows; nothing of ours is needed."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    for name in ("llama-3.1-8b", "llama-3.2-1b", "qwen2-0.5b"):
        opened = backbone.load(checkpoint_of(name, tmp_path / name / "base"), torch.float32)
        ids = backbone.add_item_tokens(opened, TOKENS, seed=0)
        backbone.add_lora(opened, Lora(r=4, alpha=8, dropout=0.0, targets=("q_proj",)), ids, seed=0)
        with torch.no_grad():
            for part, parameter in opened.model.named_parameters():
                if parameter.requires_grad:
                    parameter.normal_(generator=torch.Generator().manual_seed(len(part)))
        backbone.save(opened, tmp_path / name / "run")
        about = json.loads((tmp_path / name / "run" / "ilrec_base.json").read_text())
        base = AutoModelForCausalLM.from_pretrained(tmp_path / name / "base", dtype=torch.float32)
        if about["rows"] > base.get_input_embeddings().num_embeddings:
            base.resize_token_embeddings(about["rows"], mean_resizing=False)
        stock = PeftModel.from_pretrained(base, tmp_path / name / "run")
        expected = logits(opened.model, ids)
        torch.testing.assert_close(logits(stock, ids), expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize(("wanted", "kept"), [("float32", "float16"), ("bfloat16", "float64")])
def test_weights_come_in_the_format_that_is_asked_for(wanted: str, kept: str, tmp_path: Path) -> None:
    llama().to(getattr(torch, kept)).save_pretrained(tmp_path)
    tokenizer.train(["words"], 300, adds_bos=True).save_pretrained(tmp_path)
    found = backbone.load(str(tmp_path), getattr(torch, wanted)).model
    assert {parameter.dtype for parameter in found.parameters()} == {getattr(torch, wanted)}


def test_broken_folders_get_one_line_each(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "base"
    checkpoint_of("llama-3.1-8b", folder)
    whole = load_file(str(folder / "model.safetensors"))

    def refused(message: str) -> None:
        with pytest.raises(UserError, match=message):
            backbone.load(str(folder), torch.float32)

    name = "model.layers.1.mlp.up_proj.weight"
    save_file(
        {key: value for key, value in whole.items() if key != name}, str(folder / "model.safetensors"), {"format": "pt"}
    )
    refused(f"1 weights of a LlamaForCausalLM are not in its files, such as {name}: an incomplete copy")
    save_file(whole | {name: torch.ones(3)}, str(folder / "model.safetensors"), {"format": "pt"})
    refused(f"have another shape there, such as {name}")
    (folder / "model.safetensors").write_bytes(b"junk" * 10)
    refused("HeaderTooLarge|header")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused("no safetensors weights, and ilrec loads no pickles")
    for file in folder.iterdir():
        if file.name.startswith(("tokenizer", "special", "chat")):
            file.unlink()
    save_file(whole, str(folder / "model.safetensors"), {"format": "pt"})
    refused("no tokenizer: files such as tokenizer.json are missing|tokenizer")
    (folder / "adapter_config.json").write_text("{}")
    refused("holds an adapter. Merge it first, or name the model it belongs to")


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    checkpoint_of("qwen2-0.5b", tmp_path / "base", max_shard_size="40KB")
    next((tmp_path / "base").glob("model-00002-*")).unlink()
    with pytest.raises(UserError, match="model-00002-of"):
        backbone.load(str(tmp_path / "base"), torch.float32)


def test_an_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    opened = backbone.load(checkpoint_of("llama-3.1-8b", tmp_path / "base"), torch.float32)
    ids = backbone.add_item_tokens(opened, TOKENS, seed=0)
    backbone.add_lora(opened, Lora(r=4, alpha=8, dropout=0.0, targets=("q_proj",)), ids, seed=0)
    backbone.save(opened, tmp_path / "run")
    shallow = llama(vocabulary=VOCABULARY + 400, layers=2, tie_word_embeddings=True)
    with pytest.raises(UserError, match="the adapter is not of this base"):
        adapters.attach(shallow, tmp_path / "run")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./not/here", "no such folder"),
        ("/not/here", "no such folder"),
        ("someone/some-model", "offline mode is on .* hf download someone/some-model"),
        ("not a name!", "no such folder here and no such model"),
    ],
)
def test_backbones_that_cannot_be_had_get_one_line(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        backbone.load(name, torch.float32)


def test_a_folder_without_a_model_gets_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no config\.json"):
        backbone.load(str(tmp_path), torch.float32)


def test_a_gated_model_gets_the_two_things_to_do() -> None:
    httpx = pytest.importorskip("httpx2") if find_spec("httpx2") else pytest.importorskip("httpx")
    from huggingface_hub.errors import GatedRepoError

    response = httpx.Response(403, request=httpx.Request("GET", "https://huggingface.co"))
    with pytest.raises(UserError, match="Accept its terms at https://huggingface.co/org/gated.*HF_TOKEN"):
        with hub.explained("org/gated", "backbone"):
            try:
                raise GatedRepoError("403", response=response)
            except GatedRepoError as error:
                raise OSError("You are trying to access a gated repo.") from error


def test_quantisation_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert quantised.settings("none") == {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="--quantize 4bit needs a CUDA GPU"):
        quantised.settings("4bit")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(quantised, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install 'ilrec\[qlora\]'"):
        quantised.settings("8bit")


@pytest.mark.parametrize("quantize", ["4bit", "8bit"])
def test_quantisation_asks_for_what_the_paper_used(quantize: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(quantised, "find_spec", lambda name: name)
    found = quantised.settings(quantize)
    config = found["quantization_config"]
    assert found["device_map"] == {"": 1}
    assert (config.load_in_4bit, config.load_in_8bit) == (quantize == "4bit", quantize == "8bit")
    assert config.bnb_4bit_quant_type == "nf4"
    assert config.bnb_4bit_use_double_quant
    assert config.bnb_4bit_compute_dtype == torch.bfloat16
