"""What stands behind a Recommender: a language model's beam search or a collaborative model's scores, and its card.

Shapes: B rows, T history items, I items, k listed items.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from ilrec_cli import __version__, artifacts, devices
from ilrec_cli.artifacts import Artifact
from ilrec_cli.errors import UserError
from ilrec_cli.lm.guidance import Guide
from ilrec_cli.lm.rank import Ranker
from ilrec_cli.ranking import top_k
from ilrec_cli.settings import OpenModel
from ilrec_cli.stages import _inputs, _models


class Engine(Protocol):
    """(item_Bk, score_Bk) of the best allowed items (allowed_BI; None: all), padded with -1 and -inf."""

    def rank(
        self, history_BT: np.ndarray, user_B: np.ndarray, k: int, allowed_BI: np.ndarray | None, beams: int
    ) -> tuple[torch.Tensor, torch.Tensor]: ...


class Search:
    """Beam search of a language model; users play no part."""

    def __init__(self, ranker: Ranker):
        self.ranker = ranker

    def rank(
        self, history_BT: np.ndarray, user_B: np.ndarray, k: int, allowed_BI: np.ndarray | None, beams: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        allowed = None if allowed_BI is None else torch.from_numpy(allowed_BI).to(self.ranker.device)
        self.ranker.beams = beams
        return self.ranker.rank(history_BT, k, allowed, user_B)


class Scores:
    """Every item scored by a collaborative model."""

    def __init__(self, model: Any, device: torch.device):
        self.model, self.device = model, device

    @torch.inference_mode()
    def rank(
        self, history_BT: np.ndarray, user_B: np.ndarray, k: int, allowed_BI: np.ndarray | None, beams: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        history, user = (torch.from_numpy(each).to(self.device) for each in (history_BT, user_B))
        score_BI = self.model.scores(history, user)
        if allowed_BI is not None:  # a model may lend one row to all: a new tensor, not in place
            score_BI = score_BI.masked_fill(~torch.from_numpy(allowed_BI).to(self.device), -torch.inf)
        item_Bk = top_k(score_BI, k)
        score_Bk = score_BI.gather(1, item_Bk)
        return torch.where(score_Bk > -torch.inf, item_Bk, -1), score_Bk


def opened(config: OpenModel, model: Artifact, kind: str, data: Artifact) -> Engine:
    """The model of a folder, on its device."""
    device = devices.resolve(config.device)
    if kind == "cf":
        if config.cf_guidance is not None:
            raise UserError(
                f"--cf-guidance guides the search of a language model; '{model.name}' scores every item itself"
            )
        return Scores(_models.open_cf(model, data, device), device)
    ids = _inputs.ids_of_run(config, model, data)
    guide = None
    if config.cf_guidance is not None:
        scorer = _models.open_cf(_inputs.read_cf(config, data, config.cf), data, device)
        guide = Guide(scorer, config.cf_guidance)
    return Search(
        _models.open_ranker(
            model, ids, data, device=device, dtype=devices.DTYPES[config.dtype], beams=config.beams,
            normalize=config.normalize, guide=guide,
        )
    )  # fmt: skip


def card(config: OpenModel, model: Artifact, kind: str, data: Artifact) -> dict[str, Any]:
    """A model in facts; no path of the machine is among them."""
    statistics, made = data.json("card.json"), model.config
    search: dict[str, Any] = {"beams": config.beams, "dtype": config.dtype}
    if kind == "run":
        search["normalize"] = _models.trained_scope(model, config.normalize)
        if config.cf_guidance is not None:
            search |= {"cf_guidance": config.cf_guidance, "cf": _inputs.read_cf(config, data, config.cf).name}
    return {
        "run": model.name,
        "kind": kind,
        "made_by": made[_inputs.MADE_BY[kind]],
        "backbone": Path(made["backbone"]).name if "backbone" in made else None,
        "options": made["options"],
        "seed": model.manifest["seed"],
        "digest": model.digest,
        "dataset": config.dataset,
        "data_digest": data.digest,
        "items": statistics["statistics"]["items"],
        "max_history": statistics["max_history"],
        "search": search if kind == "run" else "every item scored",
        "evaluations": _evaluations(model, data),
        "ilrec": __version__,
    }


def _evaluations(model: Artifact, data: Artifact) -> list[dict[str, Any]]:
    """Protocol, events and metrics of every evaluation of this very model on these very data."""
    folders = [path for path in sorted((model.path.parent / "eval").glob("[!.]*")) if artifacts.exists(path)]
    current = {"run": model.digest, "data": data.digest}
    found = [path for path in folders if artifacts.read_manifest(path)["parents"].items() >= current.items()]
    return [artifacts.read(path, "eval").json("metrics.json") for path in found]
