"""Users per second of beam search over the item trie, beside `transformers.generate` with a prefix function.

    python benchmarks/decode.py

One process, calls interleaved, medians of five rounds. The same items in the same order and the same scores are checked
before anything is timed. Then: the share of trie look-ups, and growth with the catalogue and the prompt.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from _common import write

from ilrec_cli.lm.decode import beam_search
from ilrec_cli.lm.exact import exact_scores
from ilrec_cli.trie import ItemTrie

ROUNDS, USERS, BEAMS, VOCABULARY, END, PAD = 5, 64, 20, 33_000, 1, 2
SMALL = 8  # prompts at a time, with which generate's 20 copies of each are quicker on a CPU
LEVELS, CODES, FIRST = 4, 256, 31_000  # item tokens: 31,000 to 32,023


def main() -> None:
    model = llama()
    result: dict[str, Any] = {
        "users": USERS, "beams": BEAMS, "vocabulary": VOCABULARY, "rounds": ROUNDS,
        "parameters": sum(part.numel() for part in model.parameters()),
    }  # fmt: skip
    trie = catalogue(10_000)
    ids, mask = prompts(46, 102)
    result["agreement"] = agreement(model, ids, mask, trie)
    calls: dict[str, Callable[[], object]] = {
        "generate": lambda: by_generate(model, ids, mask, trie),
        "generate_small": lambda: [
            by_generate(model, ids[start : start + SMALL], mask[start : start + SMALL], trie)
            for start in range(0, USERS, SMALL)
        ],
        **{kind: searching(model, ids, mask, trie, kind) for kind in ("vocab", "ids", "trie")},
    }
    seconds = interleaved(calls)
    result["seconds"] = seconds
    result["users_per_second"] = {name: round(USERS / value, 1) for name, value in seconds.items()}
    peer = min(seconds["generate"], seconds["generate_small"])
    result["times_as_fast"] = {name: round(peer / value, 2) for name, value in seconds.items()}
    result["share_of_lookups"] = {kind: lookups(model, ids, mask, trie, kind) for kind in ("vocab", "trie")}
    result["growth"] = growth(model)
    started = time.perf_counter()
    exact_scores(model, ids[:4], mask[:4], trie)
    result["exact_seconds_per_user"] = round((time.perf_counter() - started) / 4, 2)
    print(result)
    print(write("decode", result))


def growth(model: Any) -> dict[str, dict[str, float]]:
    """Seconds by the number of items, and by the length of the prompt."""
    ids, mask = prompts(46, 102)
    by_items = {
        str(items): searching(model, ids, mask, catalogue(items), "vocab") for items in (10_000, 100_000, 1_000_000)
    }
    trie = catalogue(10_000)
    by_length = {
        str(length): searching(model, *prompts(length, length), trie, "vocab") for length in (64, 128, 256, 512)
    }
    return {"items": interleaved(by_items, 3), "prompt": interleaved(by_length, 3)}


def searching(model: Any, ids: torch.Tensor, mask: torch.Tensor, trie: ItemTrie, kind: Any) -> Callable[[], object]:
    return lambda: beam_search(model, ids, mask, trie, beams=BEAMS, normalize=kind)


def interleaved(calls: dict[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - started)
    return {name: round(statistics.median(values), 4) for name, values in seconds.items()}


def lookups(model: Any, ids: torch.Tensor, mask: torch.Tensor, trie: ItemTrie, kind: str) -> float:
    """Share of a search that is spent in the trie's own methods."""
    spent = [0.0]

    class Timed(ItemTrie):
        pass

    def timed(name: str) -> Any:
        def call(self: Any, *arguments: Any) -> Any:
            started = time.perf_counter()
            found = getattr(ItemTrie, name)(self, *arguments)
            spent[0] += time.perf_counter() - started
            return found

        return call

    for name in ("children", "is_leaf", "is_settled", "tokens"):
        setattr(Timed, name, timed(name))
    watched = Timed(trie._tensors(), trie.max_depth)
    started = time.perf_counter()
    for _ in range(ROUNDS):
        searching(model, ids, mask, watched, kind)()
    return round(spent[0] / (time.perf_counter() - started), 4)


def agreement(model: Any, ids: torch.Tensor, mask: torch.Tensor, trie: ItemTrie) -> dict[str, float]:
    """How far items, order and scores agree with generate."""
    leaf_BK, score_BK = beam_search(model, ids, mask, trie, beams=BEAMS)
    sequences, scores = by_generate(model, ids, mask, trie)
    node = torch.zeros(len(sequences), dtype=torch.long)
    for token in sequences.T:
        node = torch.where(trie.is_leaf(node), node, trie.step(node, token))
    same = (node.view(USERS, BEAMS) == leaf_BK).float().mean().item()
    return {
        "same_item_in_same_place": same,
        "largest_difference": (scores.view(USERS, BEAMS) - score_BK).abs().max().item(),
    }


def by_generate(model: Any, ids: torch.Tensor, mask: torch.Tensor, trie: ItemTrie) -> tuple[torch.Tensor, torch.Tensor]:
    """transformers' beam search; the prefix function looks up a dictionary, the quickest there is in Python."""
    from transformers import GenerationConfig

    start, allowed = ids.shape[1], prefixes(trie)
    settings = GenerationConfig(
        num_beams=BEAMS, num_return_sequences=BEAMS, max_new_tokens=trie.max_depth, length_penalty=0.0,
        early_stopping=False, do_sample=False, eos_token_id=END, pad_token_id=PAD, output_scores=True,
        return_dict_in_generate=True,
    )  # fmt: skip
    output = model.generate(
        ids, attention_mask=mask, generation_config=settings,
        prefix_allowed_tokens_fn=lambda _, sequence: allowed.get(tuple(sequence[start:].tolist()), [END]),
    )  # fmt: skip
    return output.sequences[:, start:], output.sequences_scores


_PREFIXES: dict[int, dict[tuple[int, ...], list[int]]] = {}


def prefixes(trie: ItemTrie) -> dict[tuple[int, ...], list[int]]:
    if id(trie) not in _PREFIXES:
        found: dict[tuple[int, ...], set[int]] = {}
        for path in trie._paths(np.arange(trie.items)).tolist():
            for depth, token in enumerate(path):
                found.setdefault(tuple(path[:depth]), set()).add(token)
        _PREFIXES[id(trie)] = {prefix: sorted(tokens) for prefix, tokens in found.items()}
    return _PREFIXES[id(trie)]


def catalogue(items: int) -> ItemTrie:
    """Identifiers of four codes, skewed as clusters are; the counts of prefixes are like those of real ones."""
    rng = np.random.default_rng(0)
    codes = (CODES * rng.random((items, LEVELS)) ** 2).astype(np.int64)
    tokens = FIRST + codes + CODES * np.arange(LEVELS)
    paths = np.concatenate([tokens, np.full((items, 1), END)], 1)
    return ItemTrie.build(paths.reshape(-1), np.arange(items + 1) * (LEVELS + 1))


def prompts(shortest: int, longest: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(1)
    length_B = np.linspace(shortest, longest, USERS).round().astype(int)[::-1]
    mask = torch.from_numpy((np.arange(longest) >= longest - length_B[:, None]).astype(np.int64))
    ids = torch.from_numpy(rng.integers(3, FIRST, size=(USERS, longest)))
    return torch.where(mask.bool(), ids, PAD), mask


def llama() -> Any:
    """20 million parameters, most of them in embeddings and head, as in a small recommender."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=256, intermediate_size=768, num_hidden_layers=4, num_attention_heads=8,
        num_key_value_heads=8, initializer_range=0.1, bos_token_id=0, eos_token_id=END, pad_token_id=PAD,
    )).eval()  # fmt: skip


if __name__ == "__main__":
    main()
