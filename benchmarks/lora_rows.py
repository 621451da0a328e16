"""Rows of new ID tokens under LoRA: ours beside PEFT's trainable token indices, a frozen and a fully trained matrix.

OMP_NUM_THREADS=1 python benchmarks/lora_rows.py
OMP_NUM_THREADS=2 python benchmarks/lora_rows.py

Forward and backward of one head or embedding alone, 41,000 tokens of width 512, 1,024 of them new, 40 positions: called
once, or once for each of the last and three inner layers. Everything is interleaved in one run.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from _common import write
from torch import Tensor

from ilrec_cli.lm import item_rows

V, D, NEW, POSITIONS, ROUNDS, LAYERS = 41_000, 512, 1_024, 40, 15, 4


def main() -> None:
    parts = {"head": head_task, "embedding": embedding_task}
    result = {"shape": {"vocabulary": V, "width": D, "new": NEW, "positions": POSITIONS}, "rounds": ROUNDS, "calls": {}}
    models = {"frozen": model().requires_grad_(False), "ilrec": ours(), "PEFT": peft(), "fully trained": model()}
    for part, task in parts.items():
        for calls in (1, LAYERS):
            seconds = measure({name: task(each, calls) for name, each in models.items()})
            result["calls"][f"{part}, {calls} call{'s' * (calls > 1)}"] = seconds
            print(part, calls, {name: f"{1000 * value:.1f} ms" for name, value in seconds.items()}, flush=True)
    print(write(f"lora-rows-{torch.get_num_threads()}-threads", result))


def model() -> Any:
    """A Llama whose embeddings alone matter, untied."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=V, hidden_size=D, intermediate_size=D, num_hidden_layers=1, num_attention_heads=8)
    )


def ids() -> list[int]:
    return list(range(V - NEW, V))


def ours() -> Any:
    made = model().requires_grad_(False)
    item_rows.install(made, ids())
    return made


def peft() -> Any:
    from peft import LoraConfig, get_peft_model

    rows = dict.fromkeys(("embed_tokens", "lm_head"), ids())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], trainable_token_indices=rows)
        return get_peft_model(model(), config).get_base_model()


def head_task(made: Any, calls: int) -> Callable[[], None]:
    hidden_ND = torch.randn(calls, POSITIONS, D, requires_grad=True)
    gradient_NV = torch.randn(POSITIONS, V)
    return lambda: step([made.get_output_embeddings()(part) for part in hidden_ND], gradient_NV, made)


def embedding_task(made: Any, calls: int) -> Callable[[], None]:
    tokens_N = torch.randint(0, V, (calls, POSITIONS))
    gradient_ND = torch.randn(POSITIONS, D)
    return lambda: step([made.get_input_embeddings()(part) for part in tokens_N], gradient_ND, made)


def step(outputs: list[Tensor], gradient: Tensor, made: Any) -> None:
    if outputs[0].requires_grad:
        torch.autograd.backward(outputs, [gradient] * len(outputs))
    made.zero_grad()


def measure(tasks: dict[str, Callable[[], None]]) -> dict[str, float]:
    """Median seconds of each, interleaved, so that a busy moment hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for turn in range(ROUNDS + 2):  # two to warm up
        for name, task in tasks.items():
            started = time.perf_counter()
            task()
            if turn >= 2:
                seconds[name].append(time.perf_counter() - started)
    return {name: round(statistics.median(values), 5) for name, values in seconds.items()}


if __name__ == "__main__":
    main()
