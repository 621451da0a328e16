"""What is on disk: every table's columns and version, and every kind of folder with the command that makes it."""

from __future__ import annotations

import pyarrow as pa

_ids = pa.list_(pa.int32())
TABLES: dict[str, tuple[int, pa.Schema]] = {
    "interactions": (1, pa.schema({"user": pa.int32(), "item": pa.int32(), "timestamp": pa.int64(), "rating": pa.float32()})),
    "items": (1, pa.schema({"item": pa.int32(), "raw_id": pa.string(), "source_id": pa.string(), "title": pa.string(),
                            "description": pa.string(), "brand": pa.string(), "categories": pa.list_(pa.string())})),
    # Places train_from to train_to (not included) of a user's sequence are for training.
    "users": (2, pa.schema({"user": pa.int32(), "raw_id": pa.string(), "train_from": pa.int32(), "train_to": pa.int32()})),
    "sequences": (1, pa.schema({"user": pa.int32(), "items": _ids})),
    "splits": (1, pa.schema({"event": pa.int32(), "user": pa.int32(), "end": pa.int32(), "split": pa.string()})),
    "candidates": (1, pa.schema({"event": pa.int32(), "items": _ids})),
    # Queries are for the item, one of the user's training part; -1 where there are none.
    "said": (1, pa.schema({"user": pa.int32(), "item": pa.int32(), "preferences": pa.list_(pa.string()), "queries": pa.list_(pa.string())})),
    "item_ids": (2, pa.schema({"item": pa.int32(), "raw_id": pa.string(), "codes": _ids, "tokens": pa.list_(pa.string())})),
    # first: place of the first listed item that has the target's identifier (-1: none); sharing: how many items have it.
    "rankings": (2, pa.schema({"event": pa.int32(), "user": pa.string(), "target": pa.string(), "rank": pa.int32(),
                               "first": pa.int32(), "sharing": pa.int32(), "items": pa.list_(pa.string()), "scores": pa.list_(pa.float32())})),
    # What a language model wrote for every event, before it was grounded; is_title: some item has this very title.
    "texts": (1, pa.schema({"event": pa.int32(), "text": pa.string(), "is_title": pa.bool_()})),
}  # fmt: skip

# kind -> (what it is called, the command that makes it)
KINDS = {
    "data": ("preprocessed data", "ilrec preprocess"),
    "ids": ("item identifiers", "ilrec build-ids"),
    "cf": ("collaborative model", "ilrec train-cf"),
    "run": ("training run", "ilrec train"),
    "eval": ("evaluation", "ilrec evaluate"),
}
