"""RecBole's own SASRec, epoch by epoch; run by sasrec_vs_recbole.py with the Python of RecBole's environment.

    python benchmarks/_recbole.py FOLDER_WITH_INTER_FILE OUT.json EPOCHS

RecBole is configured, not patched: its defaults but for what the comparison fixes (SETTINGS). Every event of the split
`leave one out` is ranked against all items. The JSON is written after every epoch, so the curve so far is never lost.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed

SETTINGS: dict[str, Any] = {
    # The comparison: size, history length, threads, what is measured.
    "hidden_size": 64, "n_layers": 2, "MAX_ITEM_LIST_LENGTH": 20, "use_gpu": False, "seed": 0,
    "metrics": ["Hit", "NDCG"], "topk": [10], "valid_metric": "NDCG@10",
    # What RecBole needs for a sequential model with the full softmax and published order.
    "USER_ID_FIELD": "user_id", "ITEM_ID_FIELD": "item_id", "TIME_FIELD": "timestamp",
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]}, "train_neg_sample_args": None,
    "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full", "group_by": "user"},
    "show_progress": False, "state": "WARNING", "save_dataset": False, "save_dataloaders": False,
}  # fmt: skip


class Peer:
    """The model, its data and its trainer, ready to train."""

    def __init__(self, folder: Path, name: str):
        place = {"data_path": str(folder.parent), "checkpoint_dir": str(folder / "saved")}
        self.config = Config(model="SASRec", dataset=name, config_dict=SETTINGS | place)
        init_seed(self.config["seed"], self.config["reproducibility"])
        dataset = create_dataset(self.config)
        self.train_data, self.valid_data, _ = data_preparation(self.config, dataset)
        model = get_model("SASRec")(self.config, self.train_data.dataset).to(self.config["device"])
        self.trainer = get_trainer(self.config["MODEL_TYPE"], "SASRec")(self.config, model)

    def epoch(self, number: int) -> dict[str, Any]:
        """Train one epoch and validate, with RecBole's own methods, timed apart."""
        started = time.perf_counter()
        loss = self.trainer._train_epoch(self.train_data, number)
        trained = time.perf_counter()
        _, found = self.trainer._valid_epoch(self.valid_data)
        return {"epoch": number + 1, "loss": loss / len(self.train_data), "train_seconds": trained - started,
                "valid_seconds": time.perf_counter() - trained, "ndcg@10": float(found["ndcg@10"]),
                "hit@10": float(found["hit@10"])}  # fmt: skip


def main(folder: Path, out: Path, epochs: int) -> None:
    torch.set_num_threads(2)
    peer = Peer(folder, folder.name)
    about = {"rows": len(peer.train_data.dataset), "users_ranked": len(peer.valid_data.dataset),
             "batch_size": peer.config["train_batch_size"], "learning_rate": peer.config["learning_rate"],
             "threads": torch.get_num_threads(), "torch": torch.__version__}  # fmt: skip
    rows: list[dict[str, Any]] = []
    for number in range(epochs):
        rows.append(peer.epoch(number))
        print(rows[-1], flush=True)
        aside = out.with_suffix(".tmp")
        aside.write_text(json.dumps({**about, "epochs": rows}, indent=1) + "\n")
        aside.replace(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
