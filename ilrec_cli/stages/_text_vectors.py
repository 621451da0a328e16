"""Item text -> vectors: TF-IDF or a Hugging Face model, for a catalogue and for items that come later.

Shapes: I items, D dimensions, F texts of all items one after another, P probes.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ilrec_cli import artifacts, devices, folders
from ilrec_cli import config as configs
from ilrec_cli.artifacts import Artifact
from ilrec_cli.console import Console
from ilrec_cli.errors import UserError
from ilrec_cli.lm import hub
from ilrec_cli.settings import Encoding

STATE, ARRAYS = "encoder.json", "encoder.safetensors"
KEPT = ".vectors-"  # + a key: the folder of what an encoder that was stopped had done
FIELDS = ("title", "description", "brand", "categories")
PROBES = 4  # items whose texts are kept, to tell whether an encoder is still the one that was used
PROBE_COSINE = 0.99  # number formats and devices differ by less, models by more


@dataclass
class Encoded:
    """Vectors of all items (float32), with what is needed to encode later ones."""

    vector_ID: np.ndarray
    state: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    scratch: Path | None = None

    def write(self, folder: Path) -> None:
        """Vectors and state into the folder of an artifact."""
        from safetensors.numpy import save_file

        save_file({"embeddings": np.ascontiguousarray(self.vector_ID)}, str(folder / "embeddings.safetensors"))
        artifacts.write_json(folder / STATE, self.state)
        if self.arrays:
            save_file(self.arrays, str(folder / ARRAYS))

    def forget(self) -> None:
        """Remove what was kept for going on after a stop; call it when the artifact is finished."""
        if self.scratch is not None:
            with suppress(OSError), folders.locked(self.scratch, wait=False) as free:
                if free:  # else another build of the same texts is at work there, and removes it
                    shutil.rmtree(self.scratch, ignore_errors=True)


def are_kept(home: Path) -> bool:
    """Whether vectors of a build that was stopped are there."""
    return any(home.glob(f"{KEPT}*"))


def encode(config: Encoding, items: pa.Table, data: Path, home: Path, console: Console) -> Encoded:
    """Vectors of all items from their text; what a killed encoder had done is kept in a hidden folder inside `home`."""
    joined = item_texts(items, config.text)
    empty = sum(not text for text in joined)
    if empty == len(joined):
        raise UserError(
            f"{data}: none of the {empty:,} items has text in {', '.join(config.text)}. Add the metadata file to the raw "
            "files and preprocess again, or import identifiers: --index FILE.index.json"
        )
    if empty:
        console.warn(
            f"{empty:,} of {len(joined):,} items have no text; they are told apart only by their suffix or last code"
        )
    if config.encoder == "tfidf":
        return _tfidf(joined, config)
    recorded = configs.as_dict(config)
    texts = _texts_of(recorded, items)
    settings = _model_settings(recorded, config.batch_size, config.device)
    scratch = home / f"{KEPT}{_work_key(texts, settings)}"
    with _alone(scratch, console):
        vector_ID = _fields_pooled(texts, settings, console, scratch)
    probes = np.flatnonzero([bool(any(each)) for each in texts])[:PROBES]
    state = {"kind": "model", "probes": [texts[row] for row in probes]}
    return Encoded(vector_ID, state, {"probes": vector_ID[probes]}, scratch)


@contextmanager
def _alone(scratch: Path, console: Console) -> Iterator[None]:
    """Encode into a folder alone: another build of the same texts waits, and then finds the vectors made."""
    scratch.mkdir(parents=True, exist_ok=True)
    try:
        with folders.locked(scratch, wait=False) as free:
            if free:
                yield
                return
        console.say("Another build encodes the same texts: waiting for its vectors")
        with folders.locked(scratch, wait=True):
            yield
    finally:
        with suppress(OSError):  # there is something in it
            scratch.rmdir()


def encode_later(items: pa.Table, ids: Artifact, console: Console, *, device: str, batch_size: int) -> np.ndarray:
    """Vectors of later items, by the encoder that `ids` was made with."""
    config = ids.config
    if ids.json(STATE)["kind"] == "tfidf":
        return _tfidf_later(item_texts(items, tuple(config["text"])), ids)
    settings = _model_settings(config, batch_size, device)
    probes = ids.json(STATE)["probes"]
    vectors = _fields_pooled([*probes, *_texts_of(config, items)], settings, console)
    same_width(vectors, ids, settings.name)
    _check_probes(vectors[: len(probes)], ids)
    return vectors[len(probes) :]


def has_encoder(ids: Artifact) -> bool:
    """Whether `ids` were made with an encoder that reads titles: not from a file of vectors, not from titles themselves."""
    made = (ids.path / STATE).is_file() and ids.json(STATE)["kind"] in ("tfidf", "model")
    return made and "title" in ids.config["text"]


def text_encoder(ids: Artifact, console: Console, *, device: str, batch_size: int) -> Callable[[list[str]], np.ndarray]:
    """The encoder that `ids` were made with, opened once, for single texts: vectors [len(texts), D]."""
    if ids.json(STATE)["kind"] == "tfidf":
        from ilrec_cli.ids import _tfidf

        state = _tfidf_state(ids)
        return lambda texts: _tfidf.transform(texts, state)
    from ilrec_cli.lm import embed

    settings = _model_settings(ids.config, batch_size, device)
    encoder = embed.Encoder(settings)

    def encode(texts: list[list[str]]) -> np.ndarray:
        return _fields_pooled(texts, settings, console, encoder=encoder)

    _check_probes(encode(ids.json(STATE)["probes"]), ids)
    return lambda texts: encode([[text] for text in texts])


def item_texts(items: pa.Table, names: tuple[str, ...]) -> list[str]:
    """The chosen fields of each item, joined by '. '; empty fields are left out."""
    return [". ".join(part for part in parts if part) for parts in _fields(items, names)]


def _fields(items: pa.Table, names: tuple[str, ...]) -> list[tuple[str | None, ...]]:
    columns = []
    for name in names:
        values = items[name].to_pylist()
        columns.append([", ".join(value) if isinstance(value, list) else value for value in values])
    return list(zip(*columns, strict=True))


def _tfidf(texts: list[str], config: Encoding) -> Encoded:
    from ilrec_cli.ids import _tfidf

    state = _tfidf.fit(texts, config.vector_size, config.seed)
    arrays = {"idf": state.idf_V}
    if state.component_SV is not None:
        arrays["components"] = np.ascontiguousarray(state.component_SV)
    return Encoded(_tfidf.transform(texts, state), {"kind": "tfidf", "words": state.words}, arrays)


def _tfidf_later(texts: list[str], ids: Artifact) -> np.ndarray:
    from ilrec_cli.ids import _tfidf

    return _tfidf.transform(texts, _tfidf_state(ids))


def _tfidf_state(ids: Artifact) -> Any:
    from safetensors.numpy import load_file

    from ilrec_cli.ids import _tfidf

    arrays = load_file(str(ids.path / ARRAYS))
    return _tfidf.State(ids.json(STATE)["words"], arrays["idf"], arrays.get("components"))


def _texts_of(config: dict[str, Any], items: pa.Table) -> list[list[str]]:
    """What is encoded of each item: one text, or its fields that are not empty (all empty: one empty text)."""
    names = tuple(config["text"])
    if config["pool"] == "joined":
        return [[text] for text in item_texts(items, names)]
    return [[part for part in parts if part] or [""] for parts in _fields(items, names)]


def _model_settings(config: dict[str, Any], batch_size: int, device: str) -> Any:
    from ilrec_cli.lm import embed

    return embed.Settings(name=config["encoder"], dtype=config["dtype"], max_tokens=config["max_tokens"],
                          batch_size=batch_size, device=device)  # fmt: skip


def _fields_pooled(
    texts: list[list[str]], settings: Any, console: Console, shards: Path | None = None, encoder: Any = None
) -> np.ndarray:
    """Mean over the texts of each item of their mean over tokens."""
    from ilrec_cli.lm import embed

    flat = [text for each in texts for text in each]
    vector_FD = embed.mean_pooled(flat, settings, console=console, shards=shards, encoder=encoder)
    count_I = np.array([len(each) for each in texts])
    sum_ID = np.add.reduceat(vector_FD, np.cumsum(count_I) - count_I, axis=0)
    return np.asarray(sum_ID / count_I[:, None].astype(np.float32))


def _work_key(texts: list[list[str]], settings: Any) -> str:
    """Of a long encode: goes on only with the same texts, settings and weights, on the same kind of device."""
    place = hub.folder(settings.name)
    weights = sorted(
        (path.name, path.stat().st_size, path.stat().st_mtime_ns)
        for path in ([] if place is None else place.glob("*.safetensors"))
    )
    device = str(devices.resolve(settings.device).type)
    return configs.fingerprint([texts, asdict(settings) | {"device": device}, weights])


def _check_probes(new_PD: np.ndarray, ids: Artifact) -> None:
    """An encoder of the same name may hold other weights by now: it must still give the old vectors."""
    from safetensors.numpy import load_file

    least = float((unit(load_file(str(ids.path / ARRAYS))["probes"]) * unit(new_PD)).sum(1).min())
    if least < PROBE_COSINE:
        raise UserError(
            f"encoder '{ids.config['encoder']}' is not the one that '{ids.name}' was made with: the same texts give other "
            f"vectors (cosine {least:.2f}). Find the old one, or build identifiers again"
        )


def same_width(vector_ID: np.ndarray, ids: Artifact, what: str) -> np.ndarray:
    width = embeddings(ids).shape[1]
    if vector_ID.shape[1] != width:
        raise UserError(f"{what}: vectors of {vector_ID.shape[1]} numbers, '{ids.name}' was made with {width}")
    return vector_ID


def embeddings(ids: Artifact) -> np.ndarray:
    from safetensors.numpy import load_file

    return np.asarray(load_file(str(ids.path / "embeddings.safetensors"))["embeddings"])


def extended(ids: Artifact, vector_ID: np.ndarray) -> Encoded:
    """Vectors of newer data in the space of `ids`; the probes stay those of the first, whatever items are gone."""
    from safetensors.numpy import load_file

    arrays = load_file(str(ids.path / ARRAYS)) if (ids.path / ARRAYS).is_file() else {}
    return Encoded(vector_ID, ids.json(STATE), arrays)


def unit(vector_ID: np.ndarray) -> np.ndarray:
    """Rows of length one; zero rows stay."""
    length_I1 = np.linalg.norm(vector_ID, axis=1, keepdims=True)
    return np.asarray(vector_ID / np.where(length_I1 > 0, length_I1, 1))
