"""The shop's catalogue and its customers, drawn from one seed. Shapes: I items, U users."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ilrec_cli.datasets.synthetic import Config

# Hobby -> things in the order in which one tends to buy them.
HOBBIES = {
    "Camping": ("Tent", "Sleeping Bag", "Camping Mat", "Gas Stove", "Headlamp", "Cooking Pot", "Water Filter", "Folding Chair"),
    "Coffee": ("Hand Grinder", "Pour-Over Dripper", "Paper Filters", "Kettle", "Kitchen Scale", "Milk Frother", "Espresso Cups", "Bean Jar"),
    "Cycling": ("Road Helmet", "Floor Pump", "Rear Light", "Chain Lube", "Inner Tube", "Bar Tape", "Bottle Cage", "Saddle Bag"),
    "Guitar": ("Acoustic Guitar", "Clip-On Tuner", "String Set", "Pick Pack", "Capo", "Guitar Strap", "Gig Bag", "Practice Amp"),
    "Baking": ("Stand Mixer", "Dough Scraper", "Proofing Basket", "Dutch Oven", "Bread Knife", "Cooling Rack", "Cake Tin", "Piping Set"),
    "Painting": ("Sketch Pad", "Watercolor Set", "Round Brush", "Palette", "Masking Fluid", "Easel", "Gouache Tubes", "Varnish Spray"),
    "Running": ("Running Shoes", "Running Socks", "Sports Watch", "Hydration Vest", "Foam Roller", "Energy Gels", "Rain Shell", "Reflective Belt"),
    "Gardening": ("Hand Trowel", "Seed Tray", "Potting Soil", "Watering Can", "Pruning Shears", "Plant Labels", "Raised Bed", "Compost Bin"),
}  # fmt: skip
BRANDS = ("Alder", "Brookside", "Corvo", "Dunmore", "Elmfield", "Fjordline")
STYLES = ("Classic", "Compact", "Pro", "Eco", "Travel", "Heritage")
ITEMS_PER_THING = 6
DAY = 86_400
START = 1_420_070_400  # 2015-01-01


class Catalogue(NamedTuple):
    """One entry per item; `follower_I2` are the items that tend to be bought after it."""

    title: list[str]
    brand: list[str]
    hobby: np.ndarray
    thing: list[str]
    popularity: np.ndarray
    follower_I2: np.ndarray


class Events(NamedTuple):
    """Interactions in file order."""

    user: np.ndarray
    item: np.ndarray
    timestamp: np.ndarray
    rating: np.ndarray


def catalogue(rng: np.random.Generator) -> Catalogue:
    """8 hobbies x 8 things x 6 variants; each item leads on to two variants of the next thing of its hobby."""
    title, brand, thing = [], [], []
    for things in HOBBIES.values():
        for name in things:
            for variant in range(ITEMS_PER_THING):
                brand.append(BRANDS[variant])
                thing.append(name)
                title.append(f"{BRANDS[variant]} {STYLES[rng.integers(len(STYLES))]} {name}")
    count, per_hobby = len(title), 8 * ITEMS_PER_THING
    item = np.arange(count)
    hobby = item // per_hobby
    next_thing = hobby * per_hobby + (item % per_hobby // ITEMS_PER_THING + 1) % 8 * ITEMS_PER_THING
    same_brand = next_thing + item % ITEMS_PER_THING
    other_brand = next_thing + rng.integers(ITEMS_PER_THING, size=count)
    popularity = 1 / (1 + rng.permutation(count)) ** 0.7
    return Catalogue(title, brand, hobby, thing, popularity / popularity.sum(), np.stack([same_brand, other_brand], 1))


def events(config: Config, shop: Catalogue, rng: np.random.Generator) -> Events:
    """Every user's purchases: 3 to 16 a user, a few bought twice, several on one day; users come in random order."""
    rows: list[tuple[int, int, int, int]] = []
    for user in range(config.users):
        hobbies = rng.choice(len(HOBBIES), size=1 + int(rng.random() < 0.4), replace=False)
        length = int(np.clip(3 + rng.geometric(0.18), 3, 16))
        time = START + DAY * int(rng.integers(0, 900))
        for item in _walk(config, shop, hobbies, length, rng):
            rows.append((user, item, time, int(rng.choice([3, 4, 5], p=[0.1, 0.3, 0.6]))))
            time += DAY * int(rng.integers(0, 21))
        if rng.random() < 0.1:  # buys something again
            rows.append((user, rows[-1][1], time, 5))
    table = np.array(rows)
    shuffled = np.argsort(rng.permutation(config.users)[table[:, 0]], kind="stable")
    return Events(*table[shuffled].T)


def _walk(config: Config, shop: Catalogue, hobbies: np.ndarray, length: int, rng: np.random.Generator) -> list[int]:
    """Distinct items, each by one of the three rules."""
    in_taste = np.isin(shop.hobby, hobbies) * shop.popularity
    walk: list[int] = []
    while len(walk) < length:
        rule = rng.random()
        if walk and rule < config.follow:
            item = int(shop.follower_I2[walk[-1], int(rng.random() < 0.3)])
        else:
            weights = in_taste if not walk or rule < config.follow + config.taste else shop.popularity
            item = int(rng.choice(len(weights), p=weights / weights.sum()))
        if item in walk:  # bought already: move on within the hobby
            left = in_taste.copy()
            left[walk] = 0
            item = int(rng.choice(len(left), p=left / left.sum()))
        walk.append(item)
    return walk


def user_id(user: int) -> str:
    return f"A{user:05d}HOBBY"


def item_id(item: int) -> str:
    return f"B{item:04d}SHOP"
