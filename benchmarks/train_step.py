"""Time and memory of one training step (forward and backward): gathered positions against the plain ways.

    python benchmarks/train_step.py [--trl PYTHON] [--device cuda --dtype bfloat16]

(a) a large vocabulary on a small Llama: transformers' own loss over full logits, SFT, ILRec (k = 3), ILRec as its
equations read in plain autograd (naive), ILRec that projects every position and layer and then uses our losses, TRL's
SFTTrainer; (b) a wider model with a smaller vocabulary: ILRec (k = 3) against SFT. On a
GPU: a Llama of the size of 1B. Every example has one target of five tokens. ILRec's step includes the scores of a SASRec
over 10,000 items and their masses in the trie.

Times: all cells of a shape in one process, one after another in rounds, medians. Memory: every cell in a process of its
own, the largest resident size (CUDA: what the allocator gave out) during two steps, less the size before them, with the
model loaded. TRL comes from another interpreter where --trl names one (train-step-requirements.txt); without TRL
its cell is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import _naive_ilrec
import torch
import torch.nn.functional as F
from _common import RESULTS, write
from torch import Tensor

from ilrec_cli import devices
from ilrec_cli.cf import sasrec
from ilrec_cli.cf._common import Facts
from ilrec_cli.cf.sasrec.model import Model as SASRec
from ilrec_cli.lm.examples import Batch
from ilrec_cli.lm.model import SupervisedLM
from ilrec_cli.lm.terms import Terms
from ilrec_cli.methods.ilrec import Config, weights
from ilrec_cli.methods.ilrec.loss import make_loss
from ilrec_cli.methods.sft import Config as SftConfig
from ilrec_cli.methods.sft.loss import make_loss as make_sft_loss
from ilrec_cli.stages._job import reward_source
from ilrec_cli.trie import ItemTrie

ITEMS, CODES, DEPTH, HISTORY = 10_000, 256, 4, 20
Step = Callable[[], Tensor]


class Shape(NamedTuple):
    """A model, its batch, and what is measured on it how often."""

    llama: dict[str, int]
    rows: int
    width: int
    layers: tuple[int, ...]  # candidates of ILRec
    rounds: dict[str, int]  # per cell


SHAPES = {
    "a": Shape({"vocab_size": 129_280, "hidden_size": 256, "num_hidden_layers": 4, "intermediate_size": 1024,
                "num_attention_heads": 4, "num_key_value_heads": 4}, 8, 160, (1, 2, 3),
               {"sft_full_logits": 5, "sft": 9, "ilrec": 9, "ilrec_projected": 3, "ilrec_naive": 3, "trl": 3}),
    "b": Shape({"vocab_size": 33_000, "hidden_size": 1024, "num_hidden_layers": 8, "intermediate_size": 4096,
                "num_attention_heads": 8, "num_key_value_heads": 8}, 8, 160, (5, 6, 7), {"sft": 5, "ilrec": 5}),
    "gpu": Shape({"vocab_size": 129_280, "hidden_size": 2048, "num_hidden_layers": 16, "intermediate_size": 8192,
                  "num_attention_heads": 32, "num_key_value_heads": 8}, 32, 160, (13, 14, 15),
                 {"sft_full_logits": 12, "sft": 12, "ilrec": 12}),
}  # fmt: skip


class Bench:
    """A random model, its batch and its cells; every cell gives the mean loss of the same five tokens a row."""

    def __init__(self, shape: Shape, device: torch.device, dtype: torch.dtype):
        from transformers import LlamaConfig, LlamaForCausalLM

        self.shape, self.device = shape, device
        torch.manual_seed(0)
        with torch.device(device):
            model = LlamaForCausalLM(LlamaConfig(tie_word_embeddings=True, use_cache=False, **shape.llama))
        self.model = model.to(dtype).train()
        self.plain, self.layered = SupervisedLM(self.model), SupervisedLM(self.model, shape.layers)
        config = Config()
        self.weights, self.loss, self.sft_loss = weights(config), make_loss(config), make_sft_loss(SftConfig())
        paths = self._paths()
        self.trie = ItemTrie.build(paths)
        self.batch = self._batch(torch.tensor(paths)).to(device)
        popularity = torch.ones(ITEMS, dtype=torch.long)
        scorer = SASRec(sasrec.Config(), Facts(1, ITEMS, HISTORY, popularity)).to(device).eval().requires_grad_(False)
        self.rewards = reward_source(scorer, self.trie.to(device))
        supervised = torch.zeros(shape.rows * shape.width, dtype=torch.bool, device=device)
        supervised[self.batch.position_N + 1] = True
        self.labels_BS = self.batch.input_BS.masked_fill(~supervised.view(shape.rows, -1), -100)

    def _paths(self) -> list[list[int]]:
        """Distinct paths of four codes, the last tokens of the vocabulary, and an end token."""
        first = self.shape.llama["vocab_size"] - DEPTH * CODES
        tokens = first + CODES * torch.arange(DEPTH) + torch.randint(CODES, (ITEMS, DEPTH))
        return [[*row, 1] for row in tokens.tolist()]

    def _batch(self, path_IN: Tensor) -> Batch:
        """Random prompts, each with an item's path at its end."""
        rows, width, answer = self.shape.rows, self.shape.width, DEPTH + 1
        input_BS = torch.randint(2, self.shape.llama["vocab_size"], (rows, width))
        target_BN = path_IN[torch.randint(ITEMS, (rows,))]
        input_BS[:, -answer:] = target_BN
        node_BN = torch.zeros_like(target_BN)
        for depth in range(1, answer):
            node_BN[:, depth] = self.trie.step(node_BN[:, depth - 1], target_BN[:, depth - 1])
        column_N = torch.arange(width - answer - 1, width - 1)
        position_N = (torch.arange(rows)[:, None] * width + column_N).flatten()
        event_N = torch.arange(rows).repeat_interleave(answer)
        return Batch(input_BS, torch.ones_like(input_BS), position_N, target_BN.flatten(), node_BN.flatten(), event_N,
                     torch.randint(ITEMS, (rows, HISTORY)))  # fmt: skip

    def cell(self, name: str) -> Step:
        """The step of this name; TRL's makes its trainer first."""
        step: Step = self.trl_step() if name == "trl" else getattr(self, name)
        return step

    def sft_full_logits(self) -> Tensor:
        """What transformers does with labels."""
        batch = self.batch
        loss: Tensor = self.model(
            input_ids=batch.input_BS, attention_mask=batch.mask_BS, labels=self.labels_BS, use_cache=False
        ).loss
        return loss

    def sft(self) -> Tensor:
        return self.plain(self.batch, self.sft_loss).ce / len(self.batch.target_N)

    def ilrec(self) -> Tensor:
        return self._total(self.layered(self.batch, self.loss, self.rewards(self.batch)))

    def ilrec_projected(self) -> Tensor:
        """Every position of every layer projected, the supervised ones picked for our losses."""
        final_BSV, inner_KBSV = self._all_logits()
        rewards = self.rewards(self.batch)
        picked = [each.flatten(0, 1).index_select(0, self.batch.position_N) for each in (final_BSV, *inner_KBSV)]
        return self._total(self.loss(
            picked[0], torch.stack(picked[1:]), self.batch.target_N,
            reward_tokens_NC=rewards.token_NC, reward_values_NC=rewards.value_NC,
        ))  # fmt: skip

    def ilrec_naive(self) -> Tensor:
        """The equations over all positions, the supervised ones picked at the end."""
        final_BSV, inner_KBSV = self._all_logits()
        next_BS = F.pad(self.labels_BS[:, 1:], (0, 1), value=-100)
        return _naive_ilrec.loss(final_BSV, inner_KBSV, next_BS, self.rewards(self.batch), Config())

    def _all_logits(self) -> tuple[Tensor, list[Tensor]]:
        """(of the last layer, of the candidate layers), in float32."""
        batch = self.batch
        output = self.model.model(input_ids=batch.input_BS, attention_mask=batch.mask_BS, output_hidden_states=True)
        head, norm = self.model.lm_head, self.model.model.norm
        inner = [head(norm(output.hidden_states[layer])).float() for layer in self.shape.layers]
        return head(output.last_hidden_state).float(), inner

    def trl_step(self) -> Step:
        """TRL's loss of prompt and completion, without its default of recomputing activations."""
        from datasets import Dataset
        from tokenizers import Tokenizer, models
        from transformers import PreTrainedTokenizerFast
        from trl import SFTConfig, SFTTrainer

        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1}, unk_token="<pad>")),
            pad_token="<pad>", eos_token="<eos>",
        )  # fmt: skip
        ids = self.batch.input_BS.tolist()
        rows = Dataset.from_dict({"input_ids": ids, "labels": self.labels_BS.tolist()})
        arguments = SFTConfig(
            output_dir="/tmp/trl", report_to=[], use_cpu=self.device.type == "cpu", bf16=False, gradient_checkpointing=False,
            per_device_train_batch_size=len(ids), dataset_kwargs={"skip_prepare_dataset": True},
        )  # fmt: skip
        trainer = SFTTrainer(self.model, args=arguments, train_dataset=rows, processing_class=tokenizer)
        trainer.current_gradient_accumulation_steps = 1
        inputs = next(iter(trainer.get_train_dataloader()))

        def step() -> Tensor:
            trained: Tensor = trainer.training_step(self.model, dict(inputs))  # its backward pass included
            return trained

        return step

    def run(self, step: Step) -> tuple[float, float]:
        """(seconds of forward and backward, loss); gradients start from nothing."""
        self.model.zero_grad(set_to_none=True)
        self._wait()
        started = time.perf_counter()
        loss = step()
        if loss.requires_grad:
            loss.backward()
        self._wait()
        return time.perf_counter() - started, float(loss.detach())

    def _total(self, terms: Terms) -> Tensor:
        total = sum(weight * terms.losses[name][0] for name, weight in self.weights.items()) / len(self.batch.target_N)
        return torch.as_tensor(total)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def times(bench: Bench, names: list[str]) -> dict[str, Any]:
    """Median seconds of every cell, in interleaved rounds after one that does not count."""
    steps = {name: bench.cell(name) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    losses: dict[str, float] = {}
    for number in range(1 + max(bench.shape.rounds[name] for name in names)):
        for name, step in steps.items():
            if number <= bench.shape.rounds[name]:
                taken, losses[name] = bench.run(step)
                if number:
                    seconds[name].append(round(taken, 4))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {"seconds": medians, "all_seconds": seconds, "loss": losses}


def peak(bench: Bench, name: str) -> float:
    """GiB that two steps take on top of what is there before them."""
    step = bench.cell(name)
    if bench.device.type == "cuda":
        before = torch.cuda.memory_allocated(bench.device)
        torch.cuda.reset_peak_memory_stats(bench.device)
    else:
        before = _resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here on
    for _ in range(2):
        bench.run(step)
    after = torch.cuda.max_memory_allocated(bench.device) if bench.device.type == "cuda" else _resident("VmHWM")
    return round((after - before) / 2**30, 3)


def _resident(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return 1024 * int(line.split()[1])


def measure(shape: str, options: argparse.Namespace) -> dict[str, Any]:
    """Times in one process, then memory in one process a cell."""
    names = [name for name in SHAPES[shape].rounds if name != "trl" or options.trl or find_spec("trl")]
    found = _child(options, "--shape", shape, "--cells", ",".join(names))
    found["peak_gib"] = {name: _child(options, "--shape", shape, "--cells", name, "--peak") for name in names}
    return found


def _child(options: argparse.Namespace, *arguments: str) -> Any:
    command = [
        options.trl or sys.executable,
        __file__,
        "--device",
        options.device,
        "--dtype",
        options.dtype,
        *arguments,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "PYTHONPATH": str(RESULTS.parents[1])}
    print("$", *command[1:], flush=True)
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def claims(cells: dict[str, Any]) -> dict[str, dict[str, float | bool | None]]:
    """What this benchmark is to show, as ratios."""
    rows = {}
    for name, (shape, kind, above, below, bound) in {
        "ILRec / SFT with full logits": ("a", "seconds", "ilrec", "sft_full_logits", 0.30),
        "ILRec / naive ILRec": ("a", "seconds", "ilrec", "ilrec_naive", 0.06),
        "ILRec / ILRec with everything projected": ("a", "seconds", "ilrec", "ilrec_projected", None),
        "peak memory, ILRec / SFT with full logits": ("a", "peak_gib", "ilrec", "sft_full_logits", 0.50),
        "SFT / TRL's SFTTrainer": ("a", "seconds", "sft", "trl", 0.15),
        "ILRec / SFT, wider model": ("b", "seconds", "ilrec", "sft", 1.10),
        "ILRec / SFT on a GPU": ("gpu", "seconds", "ilrec", "sft", 1.05),
    }.items():
        values = cells.get(shape, {}).get(kind, {})
        if above in values and below in values:
            ratio = values[above] / values[below]
            rows[name] = {"ratio": round(ratio, 3), "at_most": bound, "met": None if bound is None else ratio <= bound}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl", help="an interpreter that has TRL and what ilrec needs")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--shape", choices=SHAPES, help="one shape in this process (for the script itself)")
    parser.add_argument("--cells", help="cells of that shape")
    parser.add_argument("--peak", action="store_true", help="its memory, not its time")
    options = parser.parse_args()
    if options.shape:
        device = devices.resolve(options.device)
        devices.keep_freed_memory(device)
        bench = Bench(SHAPES[options.shape], device, devices.DTYPES[options.dtype])
        names = options.cells.split(",")
        print(json.dumps(peak(bench, names[0]) if options.peak else times(bench, names)))
        return
    if not (options.trl or find_spec("trl")):
        print("TRL is not installed here and --trl names no interpreter that has it: its cell is left out", flush=True)
    on_gpu = options.device.startswith("cuda")
    cells = {shape: measure(shape, options) for shape in (["gpu"] if on_gpu else ["a", "b"])}
    shown = {"device": options.device, "dtype": options.dtype, "step_threads": options.threads}
    path = write("gpu-step" if on_gpu else "train-step", {**shown, "cells": cells, "claims": claims(cells)})
    print(json.dumps(claims(cells), indent=1), f"\n{path.relative_to(RESULTS.parents[1])}")


if __name__ == "__main__":
    main()
