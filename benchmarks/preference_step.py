"""Time of a step (forward and backward) of preference tuning: a prompt shared by its responses, and tokens a second.

    python benchmarks/preference_step.py [--device cuda --dtype bfloat16]

Models of the size of examples/tiny.yaml and of twice its width and depth (on a GPU: of 1B). Rows of a prompt and items of
four codes and an end token. `s_dpo` has five negatives and one sequence a row; `s_dpo_separate` is the same loss over six
sequences a row, each with the prompt. Beside them supervised fine-tuning of the same prompts and items, and the other
methods. What a step is given is not timed: references, and GRPO's answers, six items here. Throughput counts tokens that
pass forward, padding excluded; here is none. All cells of a shape in one process, in interleaved rounds, medians.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from _common import write
from torch import Tensor

from ilrec_cli import devices
from ilrec_cli.lm.examples import Batch
from ilrec_cli.lm.model import SupervisedLM
from ilrec_cli.lm.responses import Responses, pack
from ilrec_cli.methods import dpo, grpo, ilrec, rosepo, s_dpo, sprec
from ilrec_cli.methods._sft import make_loss as make_sft
from ilrec_cli.methods.dpo.loss import make_loss as make_dpo
from ilrec_cli.methods.grpo.loss import make_loss as make_grpo
from ilrec_cli.methods.ilrec.loss import make_loss as make_ilrec
from ilrec_cli.methods.rosepo.loss import make_loss as make_rosepo
from ilrec_cli.methods.s_dpo.loss import make_loss as make_s_dpo
from ilrec_cli.methods.sprec.loss import make_loss as make_sprec

ITEM, NEGATIVES = 5, 5  # tokens of an item, its end token included
ROUNDS = 5


class Size(NamedTuple):
    """A Llama and the rows of its batches."""

    width: int
    layers: int
    vocabulary: int
    rows: int
    prompts: tuple[int, ...]  # tokens


SIZES = {
    "cpu": {"tiny": Size(128, 4, 1_400, 32, (30, 60, 120)), "medium": Size(256, 8, 10_000, 8, (60,))},
    "cuda": {"1b": Size(2048, 16, 129_280, 32, (60, 120))},
}


class Bench:
    """A random model and the batches of its cells."""

    def __init__(self, size: Size, prompt: int, device: torch.device, dtype: torch.dtype):
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=size.vocabulary, hidden_size=size.width, intermediate_size=4 * size.width,
            num_hidden_layers=size.layers, num_attention_heads=size.width // 32, num_key_value_heads=size.width // 32,
            use_cache=False,
        )  # fmt: skip
        with torch.device(device):
            self.model = LlamaForCausalLM(config).to(dtype).train()
        self.device, self.rng = device, np.random.default_rng(0)
        self.prompt_K = self.rng.integers(2, size.vocabulary, size=size.rows * prompt)
        self.length_B = np.full(size.rows, prompt)
        self.item_BRT = self.rng.integers(2, size.vocabulary, size=(size.rows, 1 + NEGATIVES, ITEM))
        self.item_BRT[:, :, -1] = 1

    def responses(self, answers: int, *, branched: bool = True) -> Responses:
        item_BRT = self.item_BRT[:, :answers]
        reference = torch.full(item_BRT.shape[:2], -50.0)
        extra = {
            "reference": reference, "smoothing": torch.full((len(item_BRT), answers - 1), 0.2),
            "advantage": torch.linspace(-1, 1, answers).expand(reference.shape),
            "token_reference": torch.full(item_BRT.shape, -10.0), "unique": torch.ones(len(item_BRT)),
            "reward": torch.ones_like(reference), "right": torch.ones_like(reference),
        }  # fmt: skip
        return pack(self.prompt_K, self.length_B, item_BRT, branched=branched, extra=extra).to(self.device)

    def supervised(self) -> Batch:
        """The same prompts, each with its first item."""
        rows, prompt = len(self.length_B), int(self.length_B[0])
        input_BS = np.concatenate([self.prompt_K.reshape(rows, prompt), self.item_BRT[:, 0]], axis=1)
        position_N = (np.arange(rows)[:, None] * input_BS.shape[1] + prompt - 1 + np.arange(ITEM)).ravel()
        nothing_N = np.zeros(rows * ITEM, dtype=np.int64)
        parts = (input_BS, np.ones_like(input_BS), position_N, self.item_BRT[:, 0].ravel(), nothing_N, nothing_N)
        return Batch(*(torch.from_numpy(part) for part in parts), torch.zeros(rows, 1).long()).to(self.device)

    def cells(self) -> dict[str, tuple[Callable[[], Tensor], int]]:
        """name -> (step that gives the mean loss, tokens that it feeds)."""
        plain = SupervisedLM(self.model)
        layered = SupervisedLM(self.model, (self.model.config.num_hidden_layers - 1,))
        options = ilrec.Config(mu_crr=0)
        each: dict[str, tuple[SupervisedLM, Any, Batch | Responses, dict[str, float]]] = {
            "sft": (plain, make_sft(None), self.supervised(), {"ce": 1.0}),
            "ilrec": (layered, make_ilrec(options), self.supervised(), ilrec.weights(options)),
            "s_dpo": (plain, make_s_dpo(s_dpo.Config()), self.responses(1 + NEGATIVES), {"s_dpo": 1.0}),
            "s_dpo_separate": (
                plain, make_s_dpo(s_dpo.Config()), self.responses(1 + NEGATIVES, branched=False), {"s_dpo": 1.0}
            ),
            "dpo": (plain, make_dpo(dpo.Config()), self.responses(2), {"dpo": 1.0}),
            "rosepo": (plain, make_rosepo(rosepo.Config()), self.responses(2), {"rosepo": 1.0}),
            "grpo": (plain, make_grpo(grpo.Config()), self.responses(1 + NEGATIVES), grpo.weights(grpo.Config())),
            "sprec": (plain, make_sprec(sprec.Config()), self.responses(2), {"dpo": 1.0}),
        }  # fmt: skip
        return {name: (self._step(*parts), sum(parts[2].fed())) for name, parts in each.items()}

    def _step(self, lm: SupervisedLM, loss: Any, batch: Any, weights: dict[str, float]) -> Callable[[], Tensor]:
        def step() -> Tensor:
            terms = lm(batch, loss)
            return torch.as_tensor(sum(weight * terms.losses[name][0] / terms.losses[name][1]
                                       for name, weight in weights.items() if weight))  # fmt: skip

        return step

    def run(self, step: Callable[[], Tensor]) -> tuple[float, float]:
        """(seconds of forward and backward, loss)."""
        self.model.zero_grad(set_to_none=True)
        self._wait()
        started = time.perf_counter()
        loss = step()
        loss.backward()
        self._wait()
        return time.perf_counter() - started, float(loss.detach())

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def measure(bench: Bench) -> dict[str, Any]:
    """Every cell's median seconds, tokens, tokens a second, loss."""
    cells = bench.cells()
    seconds: dict[str, list[float]] = {name: [] for name in cells}
    losses = {}
    for number in range(1 + ROUNDS):
        for name, (step, _) in cells.items():
            taken, losses[name] = bench.run(step)
            if number:
                seconds[name].append(round(taken, 5))
    return {
        name: {"seconds": statistics.median(seconds[name]), "all_seconds": seconds[name], "tokens": tokens,
               "tokens_a_second": round(tokens / statistics.median(seconds[name])), "loss": losses[name]}
        for name, (_, tokens) in cells.items()
    }  # fmt: skip


def claims(found: dict[str, Any]) -> dict[str, Any]:
    """What is to be shown of each prompt length: the shared step's time and loss, the worst throughput beside SFT's."""
    shared, separate, sft = found["s_dpo"], found["s_dpo_separate"], found["sft"]
    others = [name for name in found if name not in ("sft", "s_dpo_separate")]
    return {
        "shared_over_separate": round(shared["seconds"] / separate["seconds"], 3),
        "loss_difference": abs(shared["loss"] - separate["loss"]),
        "throughput_over_sft": {
            name: round(found[name]["tokens_a_second"] / sft["tokens_a_second"], 3) for name in others
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=list(devices.DTYPES))
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    found = {}
    for name, size in SIZES[device.type].items():
        for prompt in size.prompts:
            cells = measure(Bench(size, prompt, device, devices.DTYPES[options.dtype]))
            key = f"{name}, prompt of {prompt}"
            found[key] = {"size": size._asdict(), "cells": cells, "claims": claims(cells)}
            print(key, found[key]["claims"], flush=True)
    about = {"device": options.device, "dtype": options.dtype, "step_threads": options.threads}
    print(write("preference-step" + ("" if device.type == "cpu" else "-gpu"), {**about, "shapes": found}))


if __name__ == "__main__":
    main()
