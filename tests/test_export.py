"""`ilrec export`: the folder works without ilrec, equals the run, and is whole or absent."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY_LM, Finished, llama, qwen2, tree

from ilrec_cli.lm import backbone, tokenizer

Run = Callable[..., Finished]


def common(work: Path) -> list[Any]:
    return ["--dataset", "toy", "--work", work]


@pytest.fixture(scope="module")
def adapted(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shared runs and two adapters: on a tied, padded Qwen2 and on an untied Llama."""
    from ilrec_cli import cli

    for name, make, settings in (
        ("qwen-lora", qwen2, {"tie_word_embeddings": True, "padding": 40}),
        ("llama-lora", llama, {"padding": 0}),
    ):
        base = tmp_path_factory.mktemp(name)
        tok = tokenizer.train(["words of a base"], 300, adds_bos=make is llama)
        size = len(tok) + settings.pop("padding")
        make(vocabulary=size, layers=3, initializer_range=0.05, **settings).save_pretrained(base)
        tok.save_pretrained(base)
        cli.invoke(["train", "--dataset", "toy", "--work", str(trained), "--quiet", "--name", name, "--backbone", str(base),
                    "--tuning", "lora", *TINY_LM, "--max-steps", "4", "--learning-rate", "0.01"])  # fmt: skip
    return trained


def alone(code: str, folder: Path) -> str:
    """What Python prints where ilrec cannot be imported."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    blocked = f"import sys; sys.modules['ilrec_cli'] = None\nimport torch; torch.set_num_threads(1)\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", blocked], cwd=folder, text=True, capture_output=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def recipe(folder: Path) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    return code


def list_of_the_card(folder: Path) -> list[str]:
    """Items, best first, by the code of the card and nothing of ours."""
    rows = [re.findall(r"'([^']*)'", line.split("]")[0]) for line in alone(recipe(folder), folder).splitlines()]
    assert len(rows) == 10
    return [item for items in rows for item in items][:10]


def list_of_the_run(name: str, work: Path, folder: Path, ilrec: Run) -> list[str]:
    """Items, best first, by the run itself for the history of the card."""
    (history,) = re.findall(r"^history = (\[.*?\])", recipe(folder), re.MULTILINE)
    result = ilrec("recommend", *common(work), "--run", name, "--history", ",".join(json.loads(history)), "--k", "10",
                   "--no-hide-seen", "--json", "--quiet")  # fmt: skip
    return [row["item"] for row in json.loads(result.out.splitlines()[-1])["recommendations"]]


@pytest.mark.parametrize(
    ("name", "merge"), [("ilrec", False), ("qwen-lora", True), ("llama-lora", False)]
)  # fmt: skip
def test_the_card_says_how_to_get_the_runs_own_list(
    name: str, merge: bool, adapted: Path, tmp_path: Path, ilrec: Run
) -> None:
    target = tmp_path / "model"
    result = ilrec("export", *common(adapted), "--run", name, "--output", target, *(["--merge"] if merge else []))
    assert result.code == 0, result.err
    form = "model" if merge or name == "ilrec" else "adapter"
    assert (target / "model.safetensors").exists() == (form == "model")
    assert (target / "adapter_model.safetensors").exists() == (form == "adapter")
    about = json.loads((target / "export.json").read_text())
    assert about["form"] == form
    assert about["largest_difference"] <= 1e-5 * about["largest_logit"]
    if form == "model":
        config = json.loads((target / "config.json").read_text())
        assert config["tie_word_embeddings"] == (name == "qwen-lora")
        assert (
            not {"temperature", "top_k", "top_p"} & json.loads((target / "generation_config.json").read_text()).keys()
        )
    expected, found = list_of_the_run(name, adapted, target, ilrec), list_of_the_card(target)
    assert sorted(found[:5]) == sorted(expected[:5]), (found, expected)
    assert len(set(found) & set(expected)) >= 9


def test_the_folder_is_the_run_to_the_last_bits(adapted: Path, tmp_path: Path, ilrec: Run) -> None:
    target = tmp_path / "model"
    assert ilrec("export", *common(adapted), "--run", "qwen-lora", "--merge", "--output", target).code == 0
    printed = alone(
        "import torch\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "model = AutoModelForCausalLM.from_pretrained('.').eval(); tok = AutoTokenizer.from_pretrained('.')\n"
        "ids = torch.tensor([[5, len(tok) - 1, len(tok) - 3, 7]])\n"
        "print(model(input_ids=ids).logits[0, -1].tolist())",
        target,
    )
    opened = backbone.open_saved(adapted / "toy" / "runs" / "qwen-lora" / "train" / "model", torch.float32)
    size = len(opened.tokenizer)
    with torch.no_grad():
        expected = opened.model.eval()(input_ids=torch.tensor([[5, size - 1, size - 3, 7]])).logits[0, -1]
    torch.testing.assert_close(torch.tensor(json.loads(printed)), expected, rtol=0, atol=1e-5)


def test_a_card_has_what_a_reader_needs(adapted: Path, tmp_path: Path, ilrec: Run) -> None:
    evaluated = ilrec("evaluate", *common(adapted), "--run", "sft", "--limit-users", "7", "--json", "--quiet")
    assert evaluated.code == 0, evaluated.err
    for name in ("sft", "llama-lora"):
        assert ilrec("export", *common(adapted), "--run", name, "--output", tmp_path / name).code == 0
    card = (tmp_path / "sft" / "README.md").read_text()
    metrics = json.loads(evaluated.out.splitlines()[-1])["metrics"]["sft"]
    assert f"| {metrics['hit@1']:.4f} | {metrics['hit@5']:.4f} |" in card
    assert "7 events; split test" in card
    for part in ("method: sft", "transformers ", "catalogue.parquet", "## Limits", "seed: 0"):
        assert part in card, part
    assert "It was not evaluated" in (tmp_path / "llama-lora" / "README.md").read_text()
    assert "{{" not in card
    assert "&#" not in card, "Markdown is not escaped as HTML"


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_the_card_of_a_run_on_identifiers_ranks_within_them(
    adapted: Path, tmp_path: Path, ilrec: Run, tuning: str
) -> None:
    """Its other logits were never trained: a list by probabilities over all of them would not be the run's."""
    base = json.loads((adapted / "toy/runs/llama-lora/train/model/ilrec_base.json").read_text())["base"]
    result = ilrec("train", *common(adapted), "--name", "scoped-card", "--method", "sft", *TINY_LM, "--max-steps", "6",
                   "--vocab-scope", "ids", "--learning-rate", "0.02", "--overwrite", "--tuning", tuning,
                   *(["--backbone", base] if tuning == "lora" else []))  # fmt: skip
    assert result.code == 0, result.err
    target = tmp_path / "scoped"
    assert ilrec("export", *common(adapted), "--run", "scoped-card", "--output", target).code == 0
    assert "mean something among tokens of identifiers alone" in (target / "README.md").read_text()
    expected, found = list_of_the_run("scoped-card", adapted, target, ilrec), list_of_the_card(target)
    assert found == expected


def test_bfloat16_weights_are_merged_in_float32(adapted: Path, tmp_path: Path, ilrec: Run) -> None:
    from safetensors.torch import load_file

    flags = [*common(adapted), "--run", "llama-lora", "--merge"]
    for dtype in ("float32", "bfloat16"):
        result = ilrec("export", *flags, "--dtype", dtype, "--output", tmp_path / dtype)
        assert result.code == 0, result.err
    exact, rounded = (load_file(str(tmp_path / dtype / "model.safetensors")) for dtype in ("float32", "bfloat16"))
    assert all(torch.equal(rounded[key], value.to(torch.bfloat16)) for key, value in exact.items())
    assert json.loads((tmp_path / "bfloat16" / "config.json").read_text())["dtype"] == "bfloat16"
    line = ilrec(
        "export", *common(adapted), "--run", "llama-lora", "--dtype", "bfloat16", "--output", tmp_path / "x"
    ).one_line()
    assert "--dtype bfloat16 goes with --merge" in line


def test_nothing_is_overwritten_unasked_or_left_half_written(
    adapted: Path, tmp_path: Path, ilrec: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = [*common(adapted), "--run", "sft", "--output", tmp_path / "model"]
    assert ilrec("export", *flags).code == 0
    before = {name: (tmp_path / "model" / name).read_bytes() for name in tree(tmp_path / "model")}
    assert "is there already. Choose another --output, or --overwrite" in ilrec("export", *flags).one_line()
    assert ilrec("export", *flags, "--overwrite").code == 0
    assert {name: (tmp_path / "model" / name).read_bytes() for name in tree(tmp_path / "model")} == before
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "thesis.tex").write_text("years of work")
    line = ilrec("export", *flags[:-1], tmp_path / "own", "--overwrite").one_line()
    assert "was not written by ilrec export" in line
    assert tree(tmp_path / "own") == ["thesis.tex"]
    # A folder that does not hold the run's model never comes into being.
    from ilrec_cli.lm import probe

    monkeypatch.setattr(probe, "logits", spoilt(probe.logits))
    line = ilrec("export", *flags[:-1], tmp_path / "bad").one_line()
    assert "the written model is not the run's: logits differ by 1" in line
    assert tree(tmp_path) == sorted(["model", "own", "own/thesis.tex", *(f"model/{name}" for name in before)])


def spoilt(logits: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    calls: list[int] = []

    def made(*arguments: Any) -> torch.Tensor:
        calls.append(1)
        return logits(*arguments) + (len(calls) - 1)

    return made


def test_what_cannot_be_exported_is_refused(adapted: Path, tmp_path: Path, ilrec: Run) -> None:
    line = ilrec("export", *common(adapted), "--run", "sasrec", "--output", tmp_path / "x").one_line()
    assert "is a collaborative model; export writes language models" in line
    assert "several" in ilrec("export", *common(adapted), "--output", tmp_path / "x").one_line()
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--quantize", "4bit"], "--quantize 4bit goes with --tuning lora"),
        (["--quantize", "8bit", "--tuning", "lora"], "tiny-llama starts from scratch"),
        (["--quantize", "4bit", "--tuning", "lora", "--backbone", "BASE"], "needs a CUDA GPU"),
        (["--tuning", "lora", "--lora-targets", "lm_head"], "Adapters go on layers between them"),
        (["--tuning", "lora", "--lora-targets", "no_such"], "LoRA: .*no_such.*set --lora-targets"),
    ],
)
def test_quantised_and_odd_adapters_cost_one_line(
    flags: list[str], message: str, adapted: Path, tmp_path: Path, ilrec: Run
) -> None:
    if "4bit" in flags and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    base = backbone.saved_base(adapted / "toy" / "runs" / "llama-lora" / "train" / "model")
    assert base is not None
    flags = [base["base"] if flag == "BASE" else flag for flag in flags]
    line = ilrec("train", *common(adapted), "--name", "refused", "--method", "sft", *TINY_LM, *flags).one_line()
    assert re.search(message, line), line
    assert not (adapted / "toy" / "runs" / "refused").exists()


def test_all_linear_and_rslora_train_and_come_back(adapted: Path, ilrec: Run) -> None:
    base = backbone.saved_base(adapted / "toy" / "runs" / "llama-lora" / "train" / "model")
    assert base is not None
    result = ilrec("train", *common(adapted), "--name", "wide", "--method", "sft", "--backbone", base["base"], "--tuning", "lora",
                   "--lora-targets", "all-linear", "--lora-rslora", *TINY_LM, "--max-steps", "2")  # fmt: skip
    assert result.code == 0, result.err
    saved = json.loads((adapted / "toy" / "runs" / "wide" / "train" / "model" / "adapter_config.json").read_text())
    assert saved["use_rslora"]
    assert set(saved["target_modules"]) >= {"q_proj", "o_proj", "gate_proj", "down_proj"}
    assert "lm_head" not in saved["target_modules"]
    assert ilrec("evaluate", *common(adapted), "--run", "wide", "--limit-users", "3").code == 0
