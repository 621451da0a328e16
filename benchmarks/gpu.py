"""What only a GPU can show, in one run: correctness in bfloat16, speed of a step, and training on real data.

    python benchmarks/gpu.py [FOLDER_WITH_LCREC_FILES] [--minutes 25]

1. bf16: loss terms and beam search of a random Llama in bfloat16 against float32 on the same device.
2. step: SFT and ILRec steps of a Llama-1B-shaped random model (V = 129,280), gathered positions against full logits.
3. train: a small Llama from scratch on the real Instruments data, SFT and ILRec, with all users evaluated.

Each part writes results/gpu-*.json when it is done; parts whose file is there are skipped.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
import torch.nn.functional as F
from _common import RESULTS, ilrec, write

from ilrec_cli.lm.decode import beam_search
from ilrec_cli.lm.examples import Batch
from ilrec_cli.lm.model import Rewards, SupervisedLM
from ilrec_cli.methods.ilrec import Config
from ilrec_cli.methods.ilrec.loss import make_loss
from ilrec_cli.methods.sft import Config as SftConfig
from ilrec_cli.methods.sft.loss import make_loss as make_sft_loss
from ilrec_cli.trie import ItemTrie

VOCABULARY, ANSWER = 129_280, 5
SHAPES = {
    "llama-1b": {"hidden_size": 2048, "num_hidden_layers": 16, "intermediate_size": 8192, "num_attention_heads": 32, "num_key_value_heads": 8},
    "small": {"hidden_size": 256, "num_hidden_layers": 4, "intermediate_size": 1024, "num_attention_heads": 4, "num_key_value_heads": 4},
}  # fmt: skip
TRAIN = ["--backbone", "tiny-llama", "--hidden-size", 256, "--n-layers", 12, "--n-heads", 8, "--inner-size", 1024,
         "--epochs", 20, "--dropout", 0.1, "--weight-decay", 0.1, "--learning-rate", 1e-3, "--patience", 20,
         "--valid-users", 5000, "--dtype", "bfloat16"]  # fmt: skip


def llama(shape: str, device: torch.device, dtype: torch.dtype) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    with torch.device(device):
        return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, tie_word_embeddings=True, **SHAPES[shape])).to(dtype)


def batch(rows: int, width: int, device: torch.device) -> tuple[Batch, Rewards]:
    """Random prompts with five supervised tokens at the end of each row, and rewards of 32 tokens."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(VOCABULARY, (rows, width), generator=generator)
    column = torch.arange(width - ANSWER - 1, width - 1)
    position = (torch.arange(rows)[:, None] * width + column).flatten()
    target = tokens.flatten()[position + 1]
    zero = torch.zeros_like(target)
    made = Batch(tokens, torch.ones_like(tokens), position, target, zero, zero, zero[:rows, None])
    offered = torch.randint(VOCABULARY, (len(target), 31), generator=generator)
    rewards = Rewards(
        torch.cat([target[:, None], offered], 1).to(device), torch.rand(len(target), 32, generator=generator).to(device)
    )
    return made.to(device), rewards


def bf16(device: torch.device) -> dict[str, Any]:
    """Terms and beams in bfloat16 beside float32: how far apart, and do the same items come out."""
    made, rewards = batch(8, 96, device)
    terms, beams = {}, {}
    paths = np.random.default_rng(0).integers(1000, 2000, size=(5000, 4))
    trie = ItemTrie.build([[*row, 1] for row in paths.tolist()]).to(device)
    for dtype in (torch.float32, torch.bfloat16):
        model = llama("small", device, dtype).eval()
        layers = SupervisedLM(model, (2, 3))
        layers.check_phi()
        found = layers(made, make_loss(Config()), rewards)
        terms[dtype] = found.means()
        beams[dtype] = beam_search(model, made.input_BS, made.mask_BS, trie, beams=20)
    low, high = terms[torch.bfloat16], terms[torch.float32]
    same = [
        len(set(a.tolist()) & set(b.tolist())) / 20
        for a, b in zip(beams[torch.bfloat16][0], beams[torch.float32][0], strict=True)
    ]
    valid = bool(trie.is_leaf(beams[torch.bfloat16][0].flatten()).all())
    return {"terms_float32": high, "relative_difference": {name: abs(low[name] - high[name]) / max(abs(high[name]), 1e-9) for name in high},
            "shared_items_of_20": statistics.mean(same), "every_leaf_is_an_item": valid}  # fmt: skip


def step(device: torch.device) -> dict[str, Any]:
    """Median seconds and peak memory of forward and backward, interleaved."""
    made, rewards = batch(32, 160, device)
    model = llama("llama-1b", device, torch.bfloat16).train()
    plain, layers = SupervisedLM(model), SupervisedLM(model, (14, 15))
    sft, full_ilrec = make_sft_loss(SftConfig()), make_loss(Config())
    tokens = len(made.target_N)

    def full() -> torch.Tensor:
        logits = model(input_ids=made.input_BS, attention_mask=made.mask_BS, use_cache=False).logits
        return F.cross_entropy(logits.float().flatten(0, 1).index_select(0, made.position_N), made.target_N)

    def ours() -> torch.Tensor:
        return plain(made, sft).ce / tokens

    def ilrec_step() -> torch.Tensor:
        found = layers(made, full_ilrec, rewards)
        return (found.cpo + 0.01 * found.cpd) / tokens + 0.01 * found.crr / found.losses["crr"][1]

    return timed({"sft_full_logits": full, "sft": ours, "ilrec": ilrec_step}, model, device)


def timed(
    steps: dict[str, Callable[[], torch.Tensor]], model: Any, device: torch.device, rounds: int = 12
) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    memory = dict.fromkeys(steps, 0)
    for number in range(rounds + 2):
        for name, run in steps.items():
            model.zero_grad(set_to_none=True)
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
            before, started = torch.cuda.memory_allocated(device), time.perf_counter()
            run().backward()
            torch.cuda.synchronize(device)
            if number >= 2:  # the first rounds choose kernels
                seconds[name].append(time.perf_counter() - started)
                memory[name] = max(memory[name], torch.cuda.max_memory_allocated(device) - before)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {"seconds": medians, "peak_gb_above_weights": {name: round(value / 1e9, 2) for name, value in memory.items()},
            "ilrec_over_sft": medians["ilrec"] / medians["sft"], "sft_over_full_logits": medians["sft"] / medians["sft_full_logits"]}  # fmt: skip


def train(raw: Path, work: Path) -> dict[str, Any]:
    """SFT and ILRec with the same settings, on all users."""
    common = ["--dataset", "Instruments", "--work", work]
    ilrec("preprocess", *common, "--raw-dir", raw)
    ilrec("build-ids", *common, "--index", raw / "Instruments.index.json", "--name", "published")
    ilrec("train-cf", *common, "--name", "sasrec", "--epochs", 200, "--patience", 10)
    runs = {
        method: ilrec("train", *common, "--method", method, "--name", method, *TRAIN) for method in ("sft", "ilrec")
    }
    evaluated = ilrec("evaluate", *common, "--batch-size", 256)
    return {"runs": runs, "test": evaluated["metrics"], "settings": [str(part) for part in TRAIN]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("raw", type=Path, nargs="?")
    parser.add_argument("--work", type=Path, default=Path("ilrec-gpu"))
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("error: this benchmark needs a CUDA device; see: ilrec doctor")
    device = torch.device("cuda")
    parts: dict[str, Callable[[], dict[str, Any]]] = {"bf16": lambda: bf16(device), "step": lambda: step(device)}
    if arguments.raw:
        parts["train"] = lambda: train(arguments.raw, arguments.work)
    for name, part in parts.items():
        if not (RESULTS / f"gpu-{name}.json").exists():
            print(write(f"gpu-{name}", part()), flush=True)


if __name__ == "__main__":
    main()
