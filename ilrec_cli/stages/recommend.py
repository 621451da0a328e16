"""A user or a history, by original ids -> items with titles and scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ilrec_cli import artifacts, devices
from ilrec_cli.artifacts import Artifact
from ilrec_cli.console import Console
from ilrec_cli.errors import UserError, nearest
from ilrec_cli.ranking import top_k
from ilrec_cli.settings import Recommend
from ilrec_cli.stages import _inputs, _models

TITLE_WIDTH = 60


def run(config: Recommend) -> dict[str, Any]:
    """Print the table of recommendations; returns it with the history it answers."""
    console = Console.of(config)
    data = _inputs.read_data(config)
    items = data.table("items")
    raw_ids, titles = items["raw_id"].to_pylist(), items["title"].to_pylist()
    history = _history(config, data, raw_ids)
    path, kind = _inputs.find_model(config, config.run)
    model = artifacts.read(path, kind)
    model.require_parent(data, "data")
    item_k, score_k = (_by_lm if kind == "run" else _by_cf)(config, model, data, history)
    history_ids = [raw_ids[item] for item in history]
    console.say(
        f"After {len(history_ids)} items, the last: {', '.join(titles[item] or raw_ids[item] for item in history[-3:])}"
    )
    rows = [
        {"rank": rank, "item": raw_ids[item], "title": titles[item], "score": float(score)}
        for rank, (item, score) in enumerate(zip(item_k, score_k, strict=True), start=1)
    ]
    console.table(
        ["rank", "item", "title", "score"],
        [[row["rank"], row["item"], row["title"][:TITLE_WIDTH], row["score"]] for row in rows],
    )
    return {"run": model.name, "history": history_ids, "recommendations": rows}


def _history(config: Recommend, data: Artifact, raw_ids: list[str]) -> np.ndarray:
    """Item numbers, oldest first, at most as many as the models are shown."""
    longest = data.json("card.json")["max_history"]
    if config.user is not None:
        users = data.table("users")["raw_id"].to_pylist()
        if config.user not in users:
            raise UserError(
                f"--user '{config.user}' is not among the {len(users):,} users of {data.path}.{nearest(config.user, users)}"
            )
        sequences, user = _inputs.sequences(data), users.index(config.user)
        return sequences.items[sequences.offsets[user] : sequences.offsets[user + 1]][-longest:]
    numbers = {raw: number for number, raw in enumerate(raw_ids)}
    for item in config.history:
        if item not in numbers:
            raise UserError(
                f"--history: item '{item}' is not among the {len(numbers):,} items of {data.path}.{nearest(item, numbers)}"
            )
    return np.array([numbers[item] for item in config.history])[-longest:]


def _by_lm(config: Recommend, run: Artifact, data: Artifact, history: np.ndarray) -> tuple[list[int], list[float]]:
    ids = _inputs.ids_of_run(config, run, data)
    ranker = _models.open_ranker(
        run,
        ids,
        data,
        device=devices.resolve(config.device),
        dtype=devices.DTYPES[config.dtype],
        beams=max(config.beams, config.k),
    )
    if config.hide_seen:
        ranker.trie = ranker.trie.restrict(_unseen(ranker.trie.items, history))
    item_Bk, score_Bk = ranker.rank(history[None], config.k)
    real = item_Bk[0] >= 0
    return item_Bk[0][real].tolist(), score_Bk[0][real].tolist()


def _by_cf(config: Recommend, cf: Artifact, data: Artifact, history: np.ndarray) -> tuple[list[int], list[float]]:
    device = devices.resolve(config.device)
    with torch.inference_mode():
        score_BI = _models.open_cf(cf, data, device).scores(torch.from_numpy(history[None]).to(device)).clone()
        if config.hide_seen:
            score_BI[0, torch.from_numpy(history).to(device)] = -torch.inf
        item_k = top_k(score_BI, config.k)[0]
        item_k = item_k[score_BI[0, item_k] > -torch.inf]
    return item_k.tolist(), score_BI[0, item_k].tolist()


def _unseen(items: int, history: np.ndarray) -> np.ndarray:
    unseen = np.setdiff1d(np.arange(items), history)
    if not len(unseen):
        raise UserError("the history holds every item of the catalogue; see --no-hide-seen")
    return unseen
