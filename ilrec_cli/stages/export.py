"""A training run -> a Hugging Face folder that needs no ilrec: weights or adapter, tokenizer, catalogue, prompt, card."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ilrec_cli import artifacts, devices, folders
from ilrec_cli.artifacts import Artifact
from ilrec_cli.console import Console
from ilrec_cli.errors import UserError
from ilrec_cli.lm import adapters, backbone, hub, probe
from ilrec_cli.lm.backbone import Backbone
from ilrec_cli.lm.examples import Catalogue, Layout
from ilrec_cli.settings import Export
from ilrec_cli.stages import _inputs, _model_card, _models

MARK = "export.json"  # by which a folder is known as one that may be replaced
TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}  # of the largest logit


class Source(NamedTuple):
    """The run with what it was trained on."""

    run: Artifact
    ids: Artifact
    data: Artifact
    layout: Layout


def run(config: Export) -> dict[str, Any]:
    """Write the folder, open it with the libraries alone, compare logits; only then it is in place."""
    console = Console.of(config)
    source = _source(config)
    target = (config.output or _inputs.dataset_dir(config) / "exported" / source.run.name).expanduser().resolve()
    _refuse(target, overwrite=config.overwrite)
    kept = backbone.saved_base(source.run.path / "model")
    if kept and not config.merge and config.dtype != "float32":
        raise UserError(f"--dtype {config.dtype} goes with --merge: an adapter stays in float32, small as it is")
    form = "adapter" if kept and not config.merge else "model"
    with folders.aside(target) as aside:
        opened = backbone.open_saved(source.run.path / "model", torch.float32, as_trained=False)
        items = _models.catalogue(source.ids, opened.tokenizer)
        max_history = source.data.json("card.json")["max_history"]
        found = probe.probes(_inputs.sequences(source.data), max_history, items, source.layout)
        expected_NV = probe.logits(opened.model, found)
        base = opened.base
        console.say(f"{source.run.name}: writing the {form} ({_size(opened.model)} parameters)")
        same = _write(opened, aside, form, config.dtype, found, expected_NV)
        catalogue = _catalogue(aside, source, items, opened.tokenizer)
        about = {
            "form": form,
            "dtype": config.dtype,
            "base": base,
            "quantize": (kept or {}).get("quantize", "none"),
            **same,
        }
        artifacts.write_json(aside / "layout.json", source.layout.as_dict() | _prompts(source.run))
        card = _model_card.describe(source.run, source.data, config.dataset, about)
        artifacts.write_text(aside / "README.md", _model_card.render(card, catalogue))
        artifacts.write_json(aside / MARK, card)
        for file in aside.rglob("*"):
            os.chmod(file, 0o755 if file.is_dir() else 0o644)  # some writers leave files that only their owner can read
        folders.replace(aside, target)
    console.say(
        f"Largest difference of a logit to the run's own: {same['largest_difference']:.1e} of {same['largest_logit']:.3g} "
        f"({same['positions']} positions; the best token is the same at {100 * same['same_best']:.0f} %)\n"
        f"Written: {target}\nHow to use it: {target / 'README.md'}"
    )
    return {"path": str(target), "form": form, **same}


def _prompts(run: Artifact) -> dict[str, Any]:
    """The wordings that the model knows, where it has prompts."""
    kept = run.json("layout.json")
    return {name: kept[name] for name in ("chat", "digest", "templates") if name in kept}


def _source(config: Export) -> Source:
    data = _inputs.read_data(config)
    path, kind = _inputs.find_model(config, config.run, listed=("run",))
    if kind != "run":
        raise UserError(f"--run {config.run} is a collaborative model; export writes language models: see --run")
    found = artifacts.read(path, kind)
    found.require_parent(data, "data")
    if "candidates" in found.json("layout.json"):
        raise UserError(
            f"--run {found.name} chooses among candidates, for which there is no card yet. {found.path / 'model'} is a Hugging Face "
            "folder already; the prompts, as text and token ids, are in layout.json beside it"
        )
    layout = _models.trained_layout(found)
    if layout.thought:
        raise UserError(
            f"run '{found.name}' thinks before it answers, which the libraries' search alone does not; it cannot be exported"
        )
    return Source(found, _inputs.ids_of_run(config, found, data), data, layout)


def _refuse(target: Path, *, overwrite: bool) -> None:
    """`UserError` unless there is nothing, or an exported folder that may be replaced."""
    folders.repair(target)
    if target.is_file():
        raise UserError(f"--output {target} is a file, expected a folder to be made")
    if not target.exists() or not any(target.iterdir()):
        return
    if not (target / MARK).is_file():
        raise UserError(f"{target} is there already and was not written by ilrec export. Choose another --output")
    if not overwrite:
        raise UserError(f"{target} is there already. Choose another --output, or --overwrite it")


def _write(
    opened: Backbone, folder: Path, form: str, dtype: str, found: list[probe.Probe], expected_NV: torch.Tensor
) -> dict[str, Any]:
    """Write model and tokenizer, open them again without ilrec's own code, compare; what was found.

    One model is in memory at a time.
    """
    token_ids = opened.tokenizer.get_vocab()
    known = torch.arange(expected_NV.shape[1])
    if form == "adapter":
        base, old_rows = opened.base or "", opened.old_rows
        backbone.save(opened, folder)
        rows = backbone.causal_lm(opened.model).get_input_embeddings().num_embeddings
        # Rows of no token that was trained start differently in a base that others resize.
        known = torch.tensor(sorted({*range(old_rows), *adapters.trained_tokens(folder)}))
        opened.model = None
        again = backbone.load(base, torch.float32)
        model, tokenizer = adapters.attach_stock(again.model, folder, rows), hub.tokenizer(str(folder))
    else:
        backbone.merge(opened)
        opened.model.to(devices.DTYPES[dtype])
        backbone.save_plain(opened, folder)
        opened.model = None
        again = backbone.load(str(folder), devices.DTYPES[dtype])
        model, tokenizer = again.model, again.tokenizer
    if tokenizer.get_vocab() != token_ids:
        raise UserError(
            f"the tokenizer changes when {type(tokenizer).__name__} opens it: this backbone cannot be exported"
        )
    return _compared(expected_NV[:, known], probe.logits(model, found)[:, known], dtype)


def _compared(expected_NV: torch.Tensor, found_NV: torch.Tensor, dtype: str) -> dict[str, Any]:
    difference, largest = float((found_NV - expected_NV).abs().max()), float(expected_NV.abs().max())
    if not difference <= TOLERANCE[dtype] * largest:
        raise UserError(
            f"the written model is not the run's: logits differ by {difference:.2g} (largest logit {largest:.3g}, allowed "
            f"{TOLERANCE[dtype]:g} of it); nothing was kept. {'Use --dtype float32' if dtype != 'float32' else ''}"
        )
    same = float((found_NV.argmax(1) == expected_NV.argmax(1)).float().mean())
    return {
        "largest_difference": difference,
        "largest_logit": largest,
        "positions": len(expected_NV),
        "same_best": same,
    }


def _catalogue(folder: Path, source: Source, items: Catalogue, tokenizer: Any) -> pa.Table:
    """catalogue.parquet: every item's original id, title, tokens, and token ids with the end token."""
    rows = source.data.table("items")
    paths = [path[:length].tolist() for path, length in zip(items.token_ID, items.length_I, strict=True)]
    table = pa.table({
        "item": rows["raw_id"], "title": rows["title"], "tokens": source.ids.table("item_ids")["tokens"],
        "token_ids": pa.array(paths, pa.list_(pa.int32())),
    })  # fmt: skip
    pq.write_table(table, folder / "catalogue.parquet", compression="zstd")
    return table


def _size(model: Any) -> str:
    return f"{sum(parameter.numel() for parameter in model.parameters()):,}"
