"""Shared worlds: a tiny raw data set, the pipeline's artifacts on it, small random language models."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from ilrec_cli import cli

os.environ["HF_HUB_OFFLINE"] = "1"
torch.set_num_threads(1)


class Finished:
    """What a command said and how it ended."""

    def __init__(self, code: int, out: str, err: str):
        self.code, self.out, self.err = code, out, err

    def one_line(self) -> str:
        """The single error line of a refused command."""
        assert self.code == 2, (self.code, self.out, self.err)
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        return lines[0]


@pytest.fixture
def ilrec(capfd: pytest.CaptureFixture[str]) -> Callable[..., Finished]:
    """Run a command as the console script does, in this process."""

    def run(*arguments: Any) -> Finished:
        capfd.readouterr()
        code = cli._guarded([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return Finished(code, captured.out, captured.err)

    return run


@pytest.fixture
def own_world(world: Path, tmp_path: Path) -> Path:
    """A copy of the shared world, for tests that add to it."""
    return Path(shutil.copytree(world, tmp_path / "own-world"))


# The smallest settings that exercise everything; the last value of a repeated flag wins.
TINY_LM = ["--hidden-size", "16", "--n-layers", "3", "--n-heads", "2", "--inner-size", "32", "--epochs", "1",
           "--batch-size", "16", "--valid-users", "20", "--valid-beams", "4", "--log-every", "1"]  # fmt: skip


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder with data, identifiers and collaborative models of 120 synthetic users, made by the commands."""
    work = tmp_path_factory.mktemp("world")
    common = ["--dataset", "toy", "--work", str(work), "--quiet"]
    for command in (
        ["preprocess", *common, "--source", "synthetic", "-o", "users=120", "--user-k", "4", "--item-k", "1"],
        ["build-ids", *common, "--name", "text", "-o", "codes=16"],
        ["train-cf", *common, "--name", "sasrec", "--epochs", "2", "-o", "hidden_size=16"],
    ):
        cli.invoke(command)
    return work


@pytest.fixture(scope="session")
def trained(world: Path) -> Path:
    """The same work folder with a run of each method."""
    for method in ("sft", "ilrec"):
        cli.invoke(
            [
                "train",
                "--dataset",
                "toy",
                "--work",
                str(world),
                "--quiet",
                "--method",
                method,
                "--name",
                method,
                *TINY_LM,
            ]
        )
    return world


def llama(vocabulary: int = 60, layers: int = 3, width: int = 32, seed: int = 0, **settings: Any) -> Any:
    """A small random Llama whose attention matters (wide initial weights), in evaluation mode."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return random_model(LlamaConfig, LlamaForCausalLM, vocabulary, layers, width, seed, **settings)


def qwen2(vocabulary: int = 60, layers: int = 3, width: int = 32, seed: int = 0, **settings: Any) -> Any:
    """A small random Qwen2: biased projections."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return random_model(Qwen2Config, Qwen2ForCausalLM, vocabulary, layers, width, seed, **settings)


def family(name: str, **settings: Any) -> Any:
    """A small random model of any architecture; soft caps are low enough to matter."""
    import transformers

    model = getattr(transformers, f"{name}ForCausalLM")
    if name.startswith("Gemma"):
        settings = {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 512} | settings
    if name == "Gemma2":
        settings = {"final_logit_softcapping": 2.0, "attn_logit_softcapping": 2.0} | settings
    name = "Gemma3Text" if name == "Gemma3" else name
    config = getattr(transformers, f"{name}Config")
    return random_model(config, model, 60, 3, 32, 0, **settings)


def random_model(config: Any, model: Any, vocabulary: int, layers: int, width: int, seed: int, **settings: Any) -> Any:
    torch.manual_seed(seed)
    sizes = {"vocab_size": vocabulary, "hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": layers,
             "num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
             "initializer_range": 0.3}  # fmt: skip
    return model(config(**(sizes | settings))).eval()


def brute_force_paths(rng: Any, items: int, tokens: range, longest: int, end: int) -> list[list[int]]:
    """Random token paths of 1 to `longest` tokens, each closed by `end`; some may be equal."""
    lengths = rng.integers(1, longest + 1, size=items)
    return [[*rng.integers(tokens.start, tokens.stop, size=length).tolist(), end] for length in lengths]


def instruments_folder(folder: Path, users: int = 150) -> Path:
    """A synthetic world in LC-Rec's layout, under the name of a real data set."""
    from ilrec_cli.datasets import synthetic
    from ilrec_cli.datasets._raw import Reading
    from ilrec_cli.datasets.synthetic import load

    log, items, *_ = load.load(folder, "", synthetic.Config(users=users), Reading())
    folder.mkdir(parents=True)
    numbers = {item: number for number, item in enumerate(items["raw_id"])}
    sequences: dict[str, list[int]] = {}
    for user, item in log.table().sort("timestamp", "row").select("user", "item").iter_rows():
        sequences.setdefault(user, []).append(numbers[item])
    index = {number: [f"<a_{number % 8}>", f"<b_{number // 8}>"] for number in numbers.values()}
    for name, data in (("inter", dict(enumerate(sequences.values()))), ("index", index)):
        (folder / f"Instruments.{name}.json").write_text(json.dumps(data))
    # The ids in the README are real ones; here they name two of the items.
    named = {0: "B000FFWZKI", 1: "B000KGYAYQ"}
    numbers = {named.get(number, item): number for item, number in numbers.items()}
    (folder / "Instruments.item2id").write_text("".join(f"{item}\t{number}\n" for item, number in numbers.items()))
    (folder / "Instruments.user2id").write_text("".join(f"{user}\t{number}\n" for number, user in enumerate(sequences)))
    return folder


def tree(path: Path) -> Sequence[str]:
    """Every file and folder below a path, to show that nothing was left behind."""
    return sorted(str(entry.relative_to(path)) for entry in path.rglob("*"))
