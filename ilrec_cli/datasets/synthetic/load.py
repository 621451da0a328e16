"""The synthetic world as a source, and as raw files in the 2018 Amazon format."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ilrec_cli.datasets import _log
from ilrec_cli.datasets._raw import Raw, Reading
from ilrec_cli.datasets.synthetic import Config, world


def load(folder: Path, dataset: str, config: Config, reading: Reading) -> Raw:
    """Interactions and items of the world that the configuration describes; the folder is not read."""
    shop, events = _draw(config)
    interactions = pl.DataFrame(
        {
            "user": [world.user_id(user) for user in events.user],
            "item": [world.item_id(item) for item in events.item],
            "timestamp": events.timestamp,
            "rating": events.rating.astype(np.float32),
        }
    )
    ids = [world.item_id(item) for item in range(len(shop.title))]
    items = {"raw_id": ids, "source_id": ids, **_columns(shop)}
    return Raw(_log.interned([interactions], reading.spill), pl.DataFrame(items))


def write_raw(folder: Path, name: str, config: Config) -> None:
    """`<name>.json.gz` and `meta_<name>.json.gz`, as the 2018 Amazon data are distributed."""
    shop, events = _draw(config)
    folder.mkdir(parents=True, exist_ok=True)
    reviews = (
        {
            "overall": float(rating), "reviewerID": world.user_id(user), "asin": world.item_id(item),
            "summary": f"{shop.thing[item]}: {rating} stars", "unixReviewTime": int(time),
        }
        for user, item, time, rating in zip(*events, strict=True)
    )  # fmt: skip
    _write_lines(folder / f"{name}.json.gz", reviews)
    columns = _columns(shop)
    metadata = (
        {
            "asin": world.item_id(item), "title": columns["title"][item], "brand": columns["brand"][item],
            "description": [columns["description"][item]], "category": columns["categories"][item],
        }
        for item in range(len(shop.title))
    )  # fmt: skip
    _write_lines(folder / f"meta_{name}.json.gz", metadata)


def _draw(config: Config) -> tuple[world.Catalogue, world.Events]:
    shop_rng, event_rng = np.random.default_rng(config.seed).spawn(2)
    shop = world.catalogue(shop_rng)
    return shop, world.events(config, shop, event_rng)


def _columns(shop: world.Catalogue) -> dict[str, list[Any]]:
    hobby = [list(world.HOBBIES)[number] for number in shop.hobby]
    return {
        "title": shop.title,
        "description": [f"{thing} by {brand}, for {name.lower()}." for thing, brand, name in zip(shop.thing, shop.brand, hobby, strict=True)],
        "brand": shop.brand,
        "categories": [["Hobby Shop", name, thing] for name, thing in zip(hobby, shop.thing, strict=True)],
    }  # fmt: skip


def _write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(
        gzip.compress(text.encode(), mtime=0)
    )  # without the time, so that the bytes depend on the seed alone
