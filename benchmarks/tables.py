"""The tables of docs/benchmarks.md, from the JSON in results/.

    python benchmarks/tables.py

A test compares them with the page, so that no figure there is typed by hand.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import ilrec_tables
import preference_tables
import reproduce_tables
from _common import RESULTS, markdown

METRICS = ("hit@1", "hit@5", "hit@10", "hit@20", "ndcg@5", "ndcg@10", "ndcg@20", "mrr@10")
CF_MODELS = ("random", "popularity", "bpr", "caser", "gru4rec", "bert4rec", "sasrec")
CF_METRICS = ("hit@5", "hit@10", "ndcg@5", "ndcg@10")
INDUSTRIAL = ("random", "popularity", "sasrec", "lcrec-sft", "lcrec-ilrec", "bigrec-sft", "bigrec-ilrec")
LASTFM_METRICS = ("hit@5", "ndcg@5", "valid", "substring_hit@1", "substring_valid")
DEMO_MODELS = ("popularity", "sasrec", "sft", "ilrec")


def main() -> None:
    for title, table in tables().items():
        print(f"{title}\n\n{table}\n")


def tables() -> dict[str, str]:
    return {
        "instruments": instruments(), "collaborative": collaborative(), "demo": demo(),
        "preprocess": preprocess(), "growth": growth(), "startup": startup(),
        "lora_rows": lora_rows(),
        "serve": serve(),
        "plan_memory": plan_memory(),
        "train_step": train_step(),
        **ilrec_tables.tables(),
        **preference_tables.tables(),
        **reproduce_tables.tables(),
        "ids": ids(), "ids_purity": ids_purity(), "ids_scale": ids_scale(),
        **({"industrial": industrial()} if list(RESULTS.glob("industrial-*.json")) else {}),
        **({"lastfm": lastfm()} if list(RESULTS.glob("lastfm-*.json")) else {}),
        **({"peer": peer()} if (RESULTS / "sasrec-vs-recbole.json").exists() else {}),
        **({"million": million()} if (RESULTS / "cf-million.json").exists() else {}),
        **({"decode": decode(), "decode_growth": decode_growth()} if (RESULTS / "decode.json").exists() else {}),
        **({"evaluate": evaluate()} if (RESULTS / "evaluate.json").exists() else {}),
    }  # fmt: skip


def instruments() -> str:
    """One row per model and seed: test metrics of all users, and how long training and evaluation took."""
    rows = []
    for path in sorted(RESULTS.glob("instruments-*.json"), key=_order):
        cell = json.loads(path.read_text())
        train = cell["train"]
        valid = train.get("best_valid_ndcg@10") or train["valid"]["ndcg@10"]
        minutes = train["command_seconds"] / 60
        rows.append([path.stem.removeprefix("instruments-"), *(f"{cell['test'][name]:.4f}" for name in METRICS),
                     f"{valid:.4f}", f"{minutes:.1f} min", f"{cell['evaluation_seconds']:.0f} s"])  # fmt: skip
    return markdown(["model and seed", *METRICS, "valid ndcg@10", "training", "evaluation"], rows)


def industrial() -> str:
    """Both paradigms on Industrial & Scientific: one row per model and way of decoding."""
    cells = [json.loads(path.read_text()) for path in RESULTS.glob("industrial-*.json")]
    order = {name: place for place, name in enumerate(INDUSTRIAL)}
    rows = []
    for cell in sorted(cells, key=lambda cell: order[cell["cell"]]):
        for way, found in cell["decoded"].items():
            texts = found.get("texts")
            gamma = f" (gamma {found['adjustment']['gamma']:g})" if "adjustment" in found else ""
            rows.append([cell["cell"], way + gamma, *(f"{found['test'][name]:.4f}" for name in CF_METRICS),
                         f"{100 * texts['titles']:.1f} %" if texts else "-", f"{texts['distinct_titles']:,}" if texts else "-",
                         f"{cell['train']['command_seconds'] / 60:.1f} min", f"{found['seconds']:.0f} s"])  # fmt: skip
    return markdown(
        ["model", "decoded", *CF_METRICS, "texts that are titles", "different titles", "training", "evaluation"], rows
    )


def lastfm() -> str:
    """Candidate ranking: a row per model, seed and way of ranking; hit@1 with its interval, and of seen and unseen targets."""
    order = ("random", "popularity", "sasrec", "sft", "ilrec")
    cells = [json.loads(path.read_text()) for path in RESULTS.glob("lastfm-*.json")]
    rows = []
    for cell in sorted(cells, key=lambda cell: (order.index(cell["model"]), cell["seed"])):
        for way, found in cell["test"].items():
            low, high = found["intervals"]["hit@1"]
            parts = [f"{found[part]['hit@1']:.4f}" if part in found else "-" for part in ("seen", "unseen")]
            metrics = [f"{found['metrics'][name]:.4f}" if name in found["metrics"] else "-" for name in LASTFM_METRICS]
            rows.append([cell["model"], cell["seed"], "scores" if len(cell["test"]) == 1 else way,
                         f"{found['metrics']['hit@1']:.4f} ({low:.4f} to {high:.4f})", *parts, *metrics])  # fmt: skip
    return markdown(["model", "seed", "ranked by", "hit@1", "seen", "unseen", *LASTFM_METRICS], rows)


def collaborative() -> str:
    """One row per model, with mean and standard deviation of a seed (n - 1) where there are several."""
    cells = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("cf-*-s*.json"))]
    rows = []
    for model in CF_MODELS:
        found = [cell for cell in cells if cell["model"] == model]
        if not found:
            continue
        trained = [cell["train"] for cell in found]
        test = [_with_spread([each["test"][name] for each in trained]) for name in CF_METRICS]
        counted = "epochs" not in trained[0]
        rows.append([model, len(found), *test, _with_spread([each["valid"]["ndcg@10"] for each in trained]),
                     "-" if counted else f"{statistics.fmean(each['epochs'] for each in trained):.0f}",
                     "-" if counted else f"{statistics.fmean(each['seconds'] for each in trained):.0f} s",
                     f"{max(cell['peak_gib'] for cell in found):.2f} GiB"])  # fmt: skip
    return markdown(["model", "seeds", *CF_METRICS, "valid ndcg@10", "epochs", "training", "peak memory"], rows)


def _with_spread(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.4f}{spread}"


def peer() -> str:
    """RecBole's SASRec beside ours."""
    cell = json.loads((RESULTS / "sasrec-vs-recbole.json").read_text())
    theirs, ours = cell["recbole"], cell["ilrec"]
    names = {"seconds_to_level": f"to validation NDCG@10 {cell['level']:.4f}", "epoch_seconds": "one epoch of training (median)",
             "ranking_seconds": "ranking all items for 24,772 users (median)"}  # fmt: skip
    rows = [
        [what, f"{theirs[key]:.1f} s", f"{ours[key]:.1f} s", f"{theirs[key] / ours[key]:.1f}"]
        for key, what in names.items()
    ]
    rows.insert(1, ["epochs to it", theirs["epochs_to_level"], ours["epochs_to_level"], ""])
    return markdown(["SASRec, hidden size 64, 2 layers", "RecBole", "ilrec", "times as fast"], rows)


def million() -> str:
    """A million items: what sampled losses reach and cost, popularity beside them."""
    cell = json.loads((RESULTS / "cf-million.json").read_text())
    rows = [["popularity", *["-"] * 3, f"{cell['popularity']['test']['hit@10']:.4f}", *["-"] * 3]]
    for loss in ("sampled", "gbce"):
        found = cell[loss]
        rows.append([f"SASRec, `loss={loss}`", found["steps"], f"{found['first']:.2f}", f"{found['loss']:.2f}",
                     f"{found['test']['hit@10']:.4f}", f"{found['seconds_per_step']:.2f} s",
                     f"{found['ranking_seconds']:.1f} s", f"{found['peak_gib']:.2f} GiB"])  # fmt: skip
    return markdown(["model", "steps", "loss of the first step", "mean of all steps", "hit@10", "a step",
                      "ranking 1,000 users", "peak memory"], rows)  # fmt: skip


def demo() -> str:
    """Test NDCG@10 of every model of the demonstration, one row per seed."""
    rows = []
    for path in sorted(RESULTS.glob("demo-s*.json")):
        cell = json.loads(path.read_text())
        rows.append([cell["seed"], *(f"{cell['test'][name]['ndcg@10']:.4f}" for name in DEMO_MODELS),
                     f"{cell['seconds']:.0f} s"])  # fmt: skip
    return markdown(["seed", *DEMO_MODELS, "all stages"], rows)


def train_step() -> str:
    """What a step of training costs beside other ways, and what was aimed at."""
    claims = json.loads((RESULTS / "train-step.json").read_text())["claims"]
    rows = [[name, f"{each['ratio']:.3f}", *_aim(each["at_most"], each["met"])] for name, each in claims.items()]
    return markdown(["ratio", "measured", "aim, at most", "met"], rows)


def _aim(bound: float | None, met: bool | None) -> list[str]:
    return ["-", "-"] if bound is None else [f"{bound:.2f}", "yes" if met else "no"]


def startup() -> str:
    cell = json.loads((RESULTS / "startup.json").read_text())["median_seconds"]
    torch = cell["import torch"]
    return markdown(["command", "seconds", "of importing torch"],
                     [[f"`{name}`", f"{value:.2f}", f"{value / torch:.2f}"] for name, value in cell.items()])  # fmt: skip


def lora_rows() -> str:
    """New rows under LoRA: forward and backward of each way, with one thread and with two."""
    rows = []
    for path in sorted(RESULTS.glob("lora-rows-*-threads.json")):
        cell = json.loads(path.read_text())
        for task, seconds in cell["calls"].items():
            shown = [f"{1000 * value:.1f} ms" for value in seconds.values()]
            rows.append([task, cell["machine"]["threads"], *shown, f"{seconds['PEFT'] / seconds['ilrec']:.1f}"])
    return markdown(["part", "threads", *seconds, "times as fast as PEFT"], rows)


def plan_memory() -> str:
    """Planned and allocated bytes above the loaded model."""
    cells = json.loads((RESULTS / "plan-memory.json").read_text())["cells"]
    rows = [[name, f"{cell['planned'] / 2**20:.1f} MiB", f"{cell['allocated'] / 2**20:.1f} MiB", f"{cell['ratio']:.3f}"]
            for name, cell in cells.items()]  # fmt: skip
    return markdown(["run", "planned", "allocated", "ratio"], rows)


def serve() -> str:
    """One row per model, number of clients and size of a batch."""
    names = {"sft": "language model, beam 20", "sasrec": "SASRec"}
    rows = []
    for cell in json.loads((RESULTS / "serve.json").read_text())["cells"]:
        rows.append([names[cell["model"]], cell["clients"], cell["batch_size"], f"{cell['requests']:,}", cell["failed"],
                     f"{cell['p50_ms']:.0f} ms", f"{cell['p99_ms']:.0f} ms", f"{cell['requests_per_second']:.0f}",
                     f"{cell['histories_per_batch']:.1f}"])  # fmt: skip
    return markdown(["model", "clients", "batch at most", "requests", "failed", "p50", "p99", "requests/s", "histories a batch"], rows)  # fmt: skip


def preprocess() -> str:
    """The plain way beside ours, per task: medians of interleaved pairs, and peak memory."""
    cell = json.loads((RESULTS / "preprocess.json").read_text())
    tasks = {
        "core": f"5-core of {cell['rows']:,} integer rows in memory",
        "csv": f"{cell['rows']:,} rows of CSV with text ids to the artifact",
        "reviews": f"{cell['review_lines']:,} raw review lines (.json.gz) to a table",
    }
    rows = []
    for task, title in tasks.items():
        (plain, ours), found = cell[task]["seconds"].items(), cell[task]
        peaks = list(found["peak_gib"].values())
        rows.append([title, plain[0].split("_")[1], f"{plain[1]:.2f} s", f"{ours[1]:.2f} s", f"{found['times_as_fast']:.1f}",
                     f"{peaks[0]:.2f} GiB", f"{peaks[1]:.2f} GiB"])  # fmt: skip
    return markdown(["task", "peer", "peer's time", "ilrec", "times as fast", "peer's peak", "ilrec's peak"], rows)


def growth() -> str:
    cell = json.loads((RESULTS / "preprocess-growth.json").read_text())
    rows = [
        [
            f"{int(key.split()[0]):,}{key.removeprefix(key.split()[0])}",
            f"{each['seconds']:.1f} s",
            f"{each['peak_gib']:.2f} GiB",
        ]
        for key, each in cell["cells"].items()
    ]
    exponents = cell["exponents"]
    return markdown(["rows of CSV", "time", "peak memory"],
                     [*rows, ["growth exponent", f"{exponents['seconds']:.2f}", f"{exponents['peak_gib']:.2f}"]])  # fmt: skip


def decode() -> str:
    """Users per second of beam search, beside generate, by normalisation."""
    cell = json.loads((RESULTS / "decode.json").read_text())
    ways = {"generate": "all at once", "generate_small": "8 at a time"}
    rows = [[f"generate, prefix function, {how}", cell["users_per_second"][way], f"{cell['times_as_fast'][way]:.1f}", "-"]
            for way, how in ways.items() if way in cell["users_per_second"]]  # fmt: skip
    for kind in ("vocab", "ids", "trie"):
        share = cell["share_of_lookups"].get(kind)
        rows.append([f"`{kind}`", cell["users_per_second"][kind], f"{cell['times_as_fast'][kind]:.1f}",
                     "-" if share is None else f"{100 * share:.1f} %"])  # fmt: skip
    return markdown(["beam search", "users per second", "times as fast", "look-ups in the trie"], rows)


def evaluate() -> str:
    """A whole test split, by how many processes and in which batches."""
    ways = {
        "one_process": "one process",
        "two_processes": "two processes",
        "batches_of_32": "one process, smaller batches",
    }
    found = json.loads((RESULTS / "evaluate.json").read_text())
    rows = [[name, f"{found[way]['threads']}", f"{found[way]['batch_size']}", f"{found[way]['command_seconds']:.0f} s",
             f"{found[way]['users_per_second']:.0f}"] for way, name in ways.items()]  # fmt: skip
    return markdown(["", "threads of each", "batch", "whole command", "users per second"], rows)


def decode_growth() -> str:
    cell = json.loads((RESULTS / "decode.json").read_text())["growth"]
    rows = [[f"{int(items):,} items", f"{seconds:.2f} s"] for items, seconds in cell["items"].items()]
    rows += [[f"prompts of {length} tokens", f"{seconds:.2f} s"] for length, seconds in cell["prompt"].items()]
    return markdown(["64 users, `vocab`", "time"], rows)


def ids() -> str:
    """Scheme by encoder on the Industrial items: collisions, use of codes, error, time."""
    rows = []
    for cell in _ids_cells():
        collisions, floor = cell["collisions"], 1 - cell["distinct_vectors"] / cell["items"]
        added = collisions["error_after"] / collisions["error_before"] - 1
        used = " / ".join(f"{100 * count / level['codes']:.0f}" for count, level in
                          zip(collisions["codes_used_before"], cell["levels"], strict=False))  # fmt: skip
        moved = collisions["moved_within_prefix"] + collisions["moved_elsewhere"]
        rows.append([*_ids_name(cell), f"{100 * floor:.1f} %", f"{100 * collisions['collision_rate_before']:.1f} %",
                     f"{collisions['colliding_items_before']:,}", f"{cell['colliding_items']:,}", f"{moved:,}",
                     f"{100 * added:+.1f} %", f"{used} %", f"{cell['command_seconds']:.0f} s"])  # fmt: skip
    return markdown(["scheme", "vectors", "floor", "rate before", "items before", "items after", "moved", "error added",
                      "codes used before", "time"], rows)  # fmt: skip


def ids_purity() -> str:
    """Items that share a prefix against random assignments: share, and 95 % of chance."""
    rows = []
    for cell in _ids_cells():
        found = {(row["of"], row["depth"]): row for row in cell["purity"]}
        for depth in (1, 2, 3):
            shown = [found.get((kind, depth)) for kind in ("brand", "neighbours")]
            rows.append([*_ids_name(cell), depth, *(
                "-" if row is None else f"{100 * row['share']:.1f} % ({100 * row['low']:.1f} to {100 * row['high']:.1f} %)"
                for row in shown)])  # fmt: skip
    return markdown(
        ["scheme", "vectors", "depth", "pairs of one brand (chance)", "near neighbours inside (chance)"], rows
    )


def ids_scale() -> str:
    """Residual k-means and the trie at growing catalogues."""
    rows = []
    for path in sorted(RESULTS.glob("ids-scale-*.json"), key=lambda path: int(path.stem.split("-")[-1])):
        cell = json.loads(path.read_text())
        made, trie = cell["identifiers"], cell["trie"]
        rows.append([f"{cell['items']:,}", f"{made['fit_seconds']:.1f} s", f"{made['settle_seconds']:.1f} s",
                     f"{made['peak_gib']:.2f} GiB", f"{100 * made['collisions']['collision_rate_before']:.1f} %",
                     f"{trie['seconds']:.2f} s", f"{trie['peak_gib']:.2f} GiB"])  # fmt: skip
    return markdown(["items", "k-means", "settling", "peak", "rate before", "trie", "peak of trie"], rows)


def _ids_cells() -> list[dict[str, Any]]:
    cells = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("ids-industrial-*.json"))]
    return sorted(cells, key=lambda cell: (cell["encoder"] != "tfidf", cell["scheme"]))


def _ids_name(cell: dict[str, Any]) -> list[str]:
    names = {"rqkmeans": "residual k-means", "rqkmeans_balanced": "the same, balanced", "rqvae": "RQ-VAE"}
    return [names[cell["scheme"]], {"tfidf": "TF-IDF", "minilm": "MiniLM"}[cell["encoder"]]]


def _order(path: Path) -> tuple[int, str]:
    models = ("popularity", "sasrec", "sft", "ilrec")
    name = path.stem.removeprefix("instruments-").rsplit("-s", 1)[0]
    return (models.index(name) if name in models else len(models), path.stem)


if __name__ == "__main__":
    main()
