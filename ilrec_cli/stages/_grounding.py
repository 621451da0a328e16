"""What a model wrote -> the items with the nearest titles: which encoder embeds titles, and what adjusts distances.

Shapes: B texts, I items, U different titles, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ilrec_cli import artifacts, devices
from ilrec_cli.artifacts import Artifact
from ilrec_cli.console import Console
from ilrec_cli.errors import UserError
from ilrec_cli.lm import adapters, backbone, ground
from ilrec_cli.lm.examples import Catalogue
from ilrec_cli.lm.ground import Titles
from ilrec_cli.lm.rank import Ranker
from ilrec_cli.settings import Evaluate
from ilrec_cli.stages import _inputs, _text_vectors

BASE = "base"
Embed = Callable[[list[str]], torch.Tensor]


class Encoder(NamedTuple):
    """What embeds titles: the base model, or the encoder of some identifiers; in words for the protocol."""

    ids: Artifact | None
    words: str

    @property
    def name(self) -> str:
        return BASE if self.ids is None else self.ids.name


def encoder(config: Evaluate, run: Artifact, data: Artifact) -> Encoder:
    """As --grounding says: the base of a pretrained model, else the only identifiers that were made with an encoder."""
    name = run.config["backbone"]
    tiny = backbone.is_tiny(name)
    if config.grounding == BASE or (config.grounding is None and not tiny):
        if tiny:
            raise UserError(
                f"--grounding base: '{run.name}' started from scratch, so its base knows nothing of titles. Name identifiers "
                "that were made with an encoder"
            )
        return Encoder(None, f"last token, last layer of {Path(name).name if Path(name).is_dir() else name}")
    ids = _with_encoder(config, data) if config.grounding is None else _inputs.read_ids(config, data, config.grounding)
    if not _text_vectors.has_encoder(ids):
        raise UserError(
            f"--grounding {ids.name}: these identifiers were not made by an encoder that reads titles. Choose others, or "
            f"make some: ilrec build-ids {_inputs.flags(config)} --name text"
        )
    return Encoder(ids, f"{Path(ids.config['encoder']).name} of {ids.name}")


def _with_encoder(config: Evaluate, data: Artifact) -> Artifact:
    root = _inputs.dataset_dir(config) / "ids"
    every = [artifacts.read(path, "ids") for path in _inputs.finished(root, "ids").values()]
    found = [ids for ids in every if ids.manifest["parents"]["data"] == data.digest and _text_vectors.has_encoder(ids)]
    if len(found) == 1:
        return found[0]
    several = f"choose one with --grounding: {', '.join(ids.name for ids in found)}"
    make = f"make identifiers with an encoder: ilrec build-ids {_inputs.flags(config)} --name text"
    raise UserError(
        "--decode free: a model from scratch has no embeddings to ground titles in, the encoder of some identifiers takes "
        f"their place; {several if found else make}"
    )


class Grounding:
    """All titles in the encoder's space. A title as the model's tokenizer spells it has, when written, the distance 0."""

    def __init__(self, embed: Embed, titles: list[str], console: Console, batch_size: int):
        different = sorted(set(titles))
        self.place = {title: place for place, title in enumerate(different)}
        self.title_I = np.array([self.place[title] for title in titles])
        self.embed = embed
        size = 16 * batch_size
        slices = [different[start : start + size] for start in range(0, len(different), size)]
        vector_UD = torch.cat([embed(part) for part in console.progress(slices, "embed titles")])
        self.titles = Titles(vector_UD, torch.from_numpy(self.title_I).to(vector_UD.device))

    def is_title(self, texts: list[str]) -> np.ndarray:
        return np.array([text in self.place for text in texts], dtype=bool)

    def vectors(self, texts: list[str]) -> torch.Tensor:
        """vector_BD; a title's is the one it has as a title, whatever batch it was in."""
        known_B = self.is_title(texts)
        fresh = sorted({text for text, known in zip(texts, known_B, strict=True) if not known})
        table_VD = self.titles.vector_UD
        if fresh:
            table_VD = torch.cat([table_VD, self.embed(fresh).to(table_VD)])
        place = self.place | {text: len(self.place) + number for number, text in enumerate(fresh)}
        return table_VD[torch.tensor([place[text] for text in texts], device=table_VD.device)]


def opened(encoder: Encoder, run: Artifact, ranker: Ranker, config: Evaluate, console: Console) -> Grounding:
    """The encoder and the catalogue in its space."""
    tokenizer = backbone.saved_tokenizer(run.path / "model")
    if encoder.ids is None:
        embed = _base(run, ranker, tokenizer, config)
    else:
        encode = _text_vectors.text_encoder(
            encoder.ids, Console(quiet=True), device=str(ranker.device), batch_size=config.batch_size
        )

        def embed(texts: list[str]) -> torch.Tensor:
            return torch.from_numpy(encode(texts)).to(ranker.device)

    return Grounding(embed, spelled(ranker.catalogue, tokenizer), console, config.batch_size)


def _base(run: Artifact, ranker: Ranker, tokenizer: Any, config: Evaluate) -> Embed:
    """The model as it was before its fine-tuning: without its adapter, or loaded again."""
    adapted = adapters.has_adapters(ranker.model)
    model = ranker.model
    if not adapted:
        model = backbone.load(run.config["backbone"], devices.DTYPES[config.dtype]).model.to(ranker.device).eval()

    def embed(texts: list[str]) -> torch.Tensor:
        with model.disable_adapter() if adapted else nullcontext():
            return ground.last_states(model, tokenizer, texts, config.batch_size)

    return embed


def spelled(catalogue: Catalogue, tokenizer: Any) -> list[str]:
    """Every item's title, as its tokens read."""
    rows = zip(catalogue.token_ID.tolist(), catalogue.length_I.tolist(), strict=True)
    return [read(row[: length - 1], tokenizer) for row, length in rows]


def read(tokens: list[int], tokenizer: Any) -> str:
    """The text of tokens, without blanks around it; what the tokenizer would tidy stays as it was written."""
    return str(tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)).strip()
