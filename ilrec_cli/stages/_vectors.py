"""Items -> vectors: their text through an encoder, or a file, with a collaborative model's embeddings if asked for.

What later items need to be encoded in the same space is kept beside the vectors. Shapes: I items, D dimensions.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from ilrec_cli import config as configs
from ilrec_cli.artifacts import Artifact
from ilrec_cli.console import Console
from ilrec_cli.errors import UserError
from ilrec_cli.settings import Encoding
from ilrec_cli.stages import _inputs, _text_vectors, _vector_files
from ilrec_cli.stages._text_vectors import Encoded

# Settings that play a part only with some sources of vectors.
TFIDF_ONLY, MODEL_ONLY = {"vector_size"}, {"pool", "max_tokens", "dtype"}
FILE_ONLY, TEXT_ONLY, CF_ONLY = {"vectors", "vectors_ids", "vectors_tensor"}, {"encoder", "text"}, {"cf", "cf_weight"}
ALL = TFIDF_ONLY | MODEL_ONLY | FILE_ONLY | TEXT_ONLY | CF_ONLY


class Source(NamedTuple):
    """Where vectors come from, checked; `recorded` is what they depend on, for the manifest."""

    settings: Encoding
    data: Artifact
    cf: Artifact | None
    recorded: dict[str, Any]

    @property
    def parents(self) -> dict[str, Artifact]:
        return {} if self.cf is None else {"cf": self.cf}


def source(config: Encoding, data: Artifact) -> Source:
    """Where the vectors of these settings come from; `UserError` for settings that do not go together."""
    _check(config)
    cf = None if config.cf is None else _inputs.read_cf(config, data, config.cf)
    unused = FILE_ONLY if config.vectors is None else TEXT_ONLY | TFIDF_ONLY | MODEL_ONLY
    unused = unused | (MODEL_ONLY if config.encoder == "tfidf" else TFIDF_ONLY) | (set() if cf else CF_ONLY)
    _refuse_ignored(config, unused)
    recorded = {name: value for name, value in configs.as_dict(config).items() if name in ALL - unused}
    if config.vectors is not None:
        recorded["vectors"] = config.vectors.name
        recorded["vectors_sha256"] = _vector_files.digest(config.vectors)
        recorded["vectors_ids"] = config.vectors_ids and config.vectors_ids.name
    if cf is not None:
        recorded["cf"] = cf.name
    return Source(config, data, cf, recorded)


def without_vectors(recorded: dict[str, Any]) -> dict[str, Any]:
    """A configuration without the settings of vectors: for identifiers that do not depend on any."""
    return {name: value for name, value in recorded.items() if name not in ALL}


def encode(source: Source, items: pa.Table, home: Path, console: Console) -> Encoded:
    """Vectors of all items. Work that could be stopped is kept in a hidden folder inside `home`."""
    config = source.settings
    cf_ID = None if source.cf is None else _cf_part(source.cf, source, console)
    if config.vectors is not None:
        dropped = source.data.json("card.json")["dropped"].get("items that no remaining interaction has", 0)
        wanted = _vector_files.Wanted(
            config.vectors, config.vectors_ids, config.vectors_tensor, items, len(items) + dropped
        )
        encoded = Encoded(_vector_files.read(wanted, console), {"kind": "file"})
    else:
        encoded = _text_vectors.encode(config, items, source.data.path, home, console)
    if len(items) > 1 and (encoded.vector_ID == encoded.vector_ID[0]).all():
        console.warn(f"all {len(items):,} items have the same vector: their identifiers say nothing about them")
    if cf_ID is not None:
        encoded.vector_ID = np.concatenate([_text_vectors.unit(encoded.vector_ID), cf_ID], axis=1, dtype=np.float32)
    return encoded


def encode_later(
    items: pa.Table, ids: Artifact, console: Console, *, vectors: Path | None = None, vectors_ids: Path | None = None,
    device: str = "auto", batch_size: int = 64,
) -> np.ndarray:  # fmt: skip
    """Vectors of items that came later, in the space of the identifiers `ids`; `UserError` where that is impossible."""
    config = ids.config
    if "cf" in config:
        raise UserError(
            f"'{ids.name}' was made with item embeddings of the collaborative model '{config['cf']}', which knows no "
            "later items. Build identifiers again"
        )
    if "vectors" in config:
        if vectors is None:
            raise UserError(
                f"'{ids.name}' was made from vectors in {config['vectors']}; give the new items' with --vectors FILE"
            )
        wanted = _vector_files.Wanted(vectors, vectors_ids, config["vectors_tensor"], items, len(items))
        return _text_vectors.same_width(_vector_files.read(wanted, console), ids, str(vectors))
    if vectors is not None:
        raise UserError(
            f"--vectors: '{ids.name}' was made with the encoder {config['encoder']}, which reads later items too"
        )
    return _text_vectors.encode_later(items, ids, console, device=device, batch_size=batch_size)


def _check(config: Encoding) -> None:
    for name in config.text:
        if name not in _text_vectors.FIELDS:
            raise UserError(f"--text names '{name}', expected some of {', '.join(_text_vectors.FIELDS)}")
    if not config.text:
        raise UserError(f"--text names no field, expected some of {', '.join(_text_vectors.FIELDS)}")
    if config.vectors is None and (config.vectors_ids or config.vectors_tensor):
        raise UserError("--vectors-ids and --vectors-tensor describe a file of vectors: --vectors FILE")
    if config.vectors is not None and config.encoder != "tfidf":
        raise UserError(f"--vectors takes the place of --encoder {config.encoder}: give one of them")
    if config.encoder == "tfidf" and config.pool == "separate":
        raise UserError("--pool separate needs a Hugging Face encoder: TF-IDF counts words wherever they stand")


def _refuse_ignored(config: Encoding, unused: set[str]) -> None:
    """A setting that was given and plays no part would be believed to."""
    source = f"the file {config.vectors}" if config.vectors is not None else f"the encoder {config.encoder}"
    for field in fields(Encoding):
        if field.name in unused and getattr(config, field.name) != field.default:
            without = "without --cf" if field.name in CF_ONLY else f"where vectors come from {source}"
            raise UserError(f"--{field.name.replace('_', '-')} plays no part {without}. Leave it out")


def _cf_part(cf: Artifact, source: Source, console: Console) -> np.ndarray:
    """Item embeddings of unit length times the weight.

    An item without training interactions gets zeros: what such a model holds for it is where its weights began.
    """
    import torch

    from ilrec_cli.stages import _models

    embedded = _models.open_cf(cf, source.data, torch.device("cpu")).item_embeddings()
    if embedded is None:
        raise UserError(f"--cf {cf.name}: the model {cf.config['model']} has no item embeddings")
    cold_I = _inputs.training_popularity(source.data) == 0
    if cold_I.any():
        console.warn(f"{int(cold_I.sum()):,} items have no training interaction: zeros stand for their embeddings")
    cf_ID = source.settings.cf_weight * _text_vectors.unit(embedded.float().numpy())
    return np.asarray(np.where(cold_I[:, None], 0, cf_ID))
