"""What a pretrained base has to be, and to stay: the same weights, long enough, a configuration that can be opened."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY_LM, Finished, llama
from safetensors.torch import load_file, save_file
from test_backbone import saved_base

from ilrec_cli import config
from ilrec_cli.json_log import read_log
from ilrec_cli.lm import backbone, hub, tokenizer

Run = Callable[..., Finished]


def retrain(base: str) -> None:
    """Another model under the same name: what a training does to every weight."""
    path = Path(base) / "model.safetensors"
    torch.manual_seed(1)
    save_file({name: value + 0.3 * torch.randn_like(value) for name, value in load_file(path).items()}, path,
              metadata={"format": "pt"})  # fmt: skip


def test_a_version_is_of_the_weights_and_not_of_their_place(tmp_path: Path) -> None:
    base = saved_base(tmp_path / "a", tied=False)
    known = hub.version(base)
    assert known == hub.version(shutil.copytree(base, tmp_path / "b").as_posix())
    assert hub.version("./nowhere") is None
    (tmp_path / "b" / "README.md").write_text("a word more")
    assert hub.version(str(tmp_path / "b")) == known
    config = json.loads((tmp_path / "b" / "config.json").read_text())
    (tmp_path / "b" / "config.json").write_text(json.dumps({**config, "transformers_version": "6.0.0"}))
    shutil.copy(tmp_path / "b" / "model.safetensors", tmp_path / "b" / "consolidated.safetensors")
    assert hub.version(str(tmp_path / "b")) == known, "files that are not read, and who wrote those that are"
    retrain(str(tmp_path / "b"))
    assert hub.version(str(tmp_path / "b")) != known


def test_a_version_is_of_all_parts_of_the_weights(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(saved_base(tmp_path / "whole", tied=False))
    model.save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    parts = sorted((tmp_path / "parts").glob("model-*.safetensors"))
    assert len(parts) > 2
    versions = {hub.version(str(tmp_path / "parts"))}
    for part in parts:
        weights = {name: value + 1 for name, value in load_file(part).items()}
        save_file(weights, part, metadata={"format": "pt"})
        versions.add(hub.version(str(tmp_path / "parts")))
    assert len(versions) == len(parts) + 1


def test_what_is_not_all_here_has_no_version(tmp_path: Path) -> None:
    """A copy that is being fetched, or whose configuration alone is known."""
    base = Path(saved_base(tmp_path / "a", tied=False))
    (base / "model.safetensors").rename(tmp_path / "weights")
    assert hub.version(str(base)) is None
    index = {"weight_map": {"one": "model-1.safetensors", "two": "model-2.safetensors"}}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    shutil.copy(tmp_path / "weights", base / "model-1.safetensors")
    assert hub.version(str(base)) is None
    shutil.copy(tmp_path / "weights", base / "model-2.safetensors")
    assert hub.version(str(base)) is not None


@pytest.mark.parametrize(
    "name", ["models/llama/1b", "gpt2/", "a b", "foo--bar", "x" * 100, "-a", "a..b", "~nobody-here/x", "/" + "x" * 300]
)
def test_a_name_that_nothing_can_have_is_said_in_a_line(name: str, own_world: Path, ilrec: Run) -> None:
    assert hub.version(name) is None
    for command, reason in (("train", "no such folder"), ("plan", "(no such folder|its config.json is not here)")):
        flags = ["--dataset", "toy", "--work", own_world, "--method", "sft", f"--backbone={name}"]
        assert re.search(f"backbone '{re.escape(name)}': {reason}", ilrec(command, *flags).one_line())


def test_a_copy_of_the_hub_has_the_version_of_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert hub.version("someone/model") is None
    folder = tmp_path / "hub" / "models--someone--model"
    base = saved_base(folder / "snapshots" / "abc", tied=False)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    assert hub.version("someone/model") == hub.version(base)


def test_an_adapter_is_not_put_on_another_base(own_world: Path, tmp_path: Path, ilrec: Run) -> None:
    base = saved_base(tmp_path / "base", tied=False)
    common = ["--dataset", "toy", "--work", own_world]
    train = ["train", *common, "--backbone", base, "--tuning", "lora", *TINY_LM, "--epochs", "2"]
    assert ilrec(*train, "--name", "done", "--max-steps", "2").code == 0
    model = own_world / "toy" / "runs" / "done" / "train" / "model"
    assert ilrec("evaluate", *common, "--run", "done", "--limit-users", "5").code == 0
    retrain(base)
    for command in (["evaluate", "--limit-users", "6"], ["export", "--merge", "--output", tmp_path / "out"]):
        line = ilrec(*command, *common, "--run", "done").one_line()
        assert "its adapter was trained on version" in line
        assert "Put those back, or train again" in line
    assert not (tmp_path / "out").exists()
    line = ilrec(*train, "--name", "done", "--max-steps", "2").one_line()
    assert "backbone_version is" in line, "a finished run of another base is not this one"
    unnamed = [*train, "--max-steps", "1", "--json"]
    before = json.loads(ilrec(*unnamed).out.splitlines()[-1])["path"]
    retrain(base)
    assert before in ilrec(*unnamed).one_line(), "the same name, and refused"
    kept = json.loads((model / "ilrec_base.json").read_text())
    kept.pop("version")  # as runs from before it was kept have it
    (model / "ilrec_base.json").write_text(json.dumps(kept))
    assert backbone.open_saved(model, torch.float32).base == base


def test_a_training_goes_on_from_the_base_that_it_began_with(own_world: Path, tmp_path: Path, ilrec: Run) -> None:
    from ilrec_cli.lm.loop import Loop

    base = saved_base(tmp_path / "base", tied=False)
    train = ["train", "--dataset", "toy", "--work", own_world, "--backbone", base, "--tuning", "lora", *TINY_LM,
             "--name", "run", "--save-every", "1"]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        validate = Loop._validate

        def stopped(self: Any) -> None:
            validate(self)
            raise KeyboardInterrupt

        patch.setattr(Loop, "_validate", stopped)
        assert ilrec(*train).code == 130
    weights = (Path(base) / "model.safetensors").read_bytes()
    retrain(base)
    assert "--resume: backbone_version is" in ilrec(*train, "--resume").one_line()
    (Path(base) / "model.safetensors").write_bytes(weights)
    assert ilrec(*train, "--resume").code == 0


@pytest.mark.parametrize("search", ["grid", "optuna"])
def test_trials_of_two_bases_are_not_compared(search: str, own_world: Path, tmp_path: Path, ilrec: Run) -> None:
    if search == "optuna":
        pytest.importorskip("optuna")
    base, file = saved_base(tmp_path / "base", tied=False), own_world / "small.yaml"
    settings = {"method": "sft", "backbone": base, "epochs": 1, "max_steps": 2, "valid_users": 20, "valid_beams": 4}
    file.write_text(config.to_yaml(settings))
    sweep = ["sweep", "--dataset", "toy", "--work", own_world, "--train", file, "--search", search,
             "-o", "learning_rate=1e-4,5e-3"]  # fmt: skip
    log = own_world / "toy" / "sweeps" / "sft" / "trials.jsonl"
    assert ilrec(*sweep, "--trials", "1").code == 0
    (row,) = read_log(log)
    assert row["backbone_version"] == hub.version(base)
    retrain(base)
    line = ilrec(*sweep, "--trials", "2").one_line()
    assert f"began with version {row['backbone_version']}" in line
    assert read_log(log) == [row]
    assert ilrec(*sweep, "--trials", "1", "--overwrite").code == 0
    assert read_log(log)[0]["backbone_version"] == hub.version(base) != row["backbone_version"]


def test_a_trial_that_was_stopped_begins_again_under_another_base(own_world: Path, tmp_path: Path, ilrec: Run) -> None:
    from ilrec_cli.lm.loop import Loop

    base, file = saved_base(tmp_path / "base", tied=False), own_world / "small.yaml"
    settings = {"method": "sft", "backbone": base, "epochs": 1, "max_steps": 2, "valid_users": 20, "valid_beams": 4}
    file.write_text(config.to_yaml(settings | {"save_every": 1}))
    sweep = ["sweep", "--dataset", "toy", "--work", own_world, "--train", file, "-o", "learning_rate=1e-4,5e-3"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "_validate", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        assert ilrec(*sweep).code == 130
    retrain(base)
    assert ilrec(*sweep).code == 0
    rows = read_log(own_world / "toy" / "sweeps" / "sft" / "trials.jsonl")
    assert [row.get("failed") for row in rows] == [None, None]
    assert {row["backbone_version"] for row in rows} == {hub.version(base)}


def short_base(folder: Path, architecture: str, positions: int = 40) -> str:
    """A base that reads few tokens."""
    tok = tokenizer.train(["some words to spell things with"], 300, adds_bos=True)
    if architecture == "Llama":
        model = llama(vocabulary=len(tok), layers=2, max_position_embeddings=positions)
    else:
        from transformers import GPT2Config, GPT2LMHeadModel

        model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tok), n_embd=32, n_layer=2, n_head=2, n_positions=positions))
    model.save_pretrained(folder)
    tok.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("architecture", ["Llama", "GPT2"])
def test_prompts_longer_than_the_base_reads_are_refused(
    architecture: str, own_world: Path, tmp_path: Path, ilrec: Run
) -> None:
    base = short_base(tmp_path / "base", architecture)
    flags = ["--dataset", "toy", "--work", own_world, "--method", "sft", "--backbone", base, *TINY_LM]
    for command in (["train", "--name", "short"], ["plan"]):
        line = ilrec(*command, *flags, "--prompt", "input").one_line()
        assert "reads 40 tokens, a prompt and its item have up to" in line, command
        assert "--max-history" in line
        line = ilrec(*command, *flags, "--tasks", "next_item").one_line()
        assert "longer than --max-length 40" in line, command
    assert not (own_world / "toy" / "runs" / "short").exists()


@pytest.mark.parametrize(
    ("shape", "positions"), [("--prompt=input", 40), ("--targets=all", 20), ("--tasks=next_item", 150)]
)
def test_a_base_has_to_read_the_prompts_of_the_evaluation_too(
    shape: str, positions: int, own_world: Path, tmp_path: Path, ilrec: Run
) -> None:
    """They are longer than those of the training; with as many positions as the line says, and no more, all goes well."""
    flags = ["--dataset", "toy", "--work", own_world, "--method", "sft", *TINY_LM, "--max-steps", "1", shape]
    base = short_base(tmp_path / "short", "GPT2", positions)
    needed = int(ilrec("train", *flags, "--backbone", base).one_line().partition("have up to ")[2].partition(" ")[0])
    base = short_base(tmp_path / "shorter", "GPT2", needed - 1)
    assert f"have up to {needed} " in ilrec("train", *flags, "--backbone", base).one_line()
    base = short_base(tmp_path / "fits", "GPT2", needed)
    assert ilrec("train", *flags, "--backbone", base, "--name", "fits").code == 0
    ranked = ["evaluate", "--dataset", "toy", "--work", own_world, "--run", "fits"]
    assert ilrec(*ranked).code == 0


BROKEN: dict[str, Callable[[dict[str, Any]], Any]] = {
    "layers": lambda config: {**config, "num_hidden_layers": 1, "layer_types": ["full_attention"] * 3},
    "activation": lambda config: {**config, "hidden_act": "foo"},
    "list": lambda config: [config],
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_configuration_is_said_in_a_line(name: str, own_world: Path, tmp_path: Path, ilrec: Run) -> None:
    base = Path(saved_base(tmp_path / "base", tied=True))
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(BROKEN[name](config)))
    for command in ("train", "plan"):
        line = ilrec(command, "--dataset", "toy", "--work", own_world, "--method", "sft", "--backbone", base).one_line()
        assert f"backbone '{base}'" in line
