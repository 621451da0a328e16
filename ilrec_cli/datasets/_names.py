"""Names that people use for public data, what they are called at their source, and the counts published for them."""

from __future__ import annotations

from typing import NamedTuple

# Short names of the literature -> categories of the Amazon reviews (editions of 2018 and 2023; LC-Rec's names among them).
ALIASES = {
    "Instruments": "Musical_Instruments",
    "Instrument": "Musical_Instruments",
    "Arts": "Arts_Crafts_and_Sewing",
    "Art": "Arts_Crafts_and_Sewing",
    "Games": "Video_Games",
    "Game": "Video_Games",
    "Industrial": "Industrial_and_Scientific",
    "Office": "Office_Products",
    "Beauty": "All_Beauty",
    "Sports": "Sports_and_Outdoors",
    "Toys": "Toys_and_Games",
    "Movies": "Movies_and_TV",
    "CDs": "CDs_and_Vinyl",
}
# Categories of the three editions that share their name.
CATEGORIES = (
    "All_Beauty", "Arts_Crafts_and_Sewing", "Automotive", "Books", "CDs_and_Vinyl", "Cell_Phones_and_Accessories",
    "Digital_Music", "Electronics", "Gift_Cards", "Grocery_and_Gourmet_Food", "Home_and_Kitchen",
    "Industrial_and_Scientific", "Kindle_Store", "Magazine_Subscriptions", "Movies_and_TV", "Musical_Instruments",
    "Office_Products", "Patio_Lawn_and_Garden", "Pet_Supplies", "Software", "Sports_and_Outdoors",
    "Tools_and_Home_Improvement", "Toys_and_Games", "Video_Games",
)  # fmt: skip


class Published(NamedTuple):
    """Counts of a data set as a paper states them, without the padding user and item that the table counts too."""

    users: int
    items: int
    interactions: int
    source: str


# Table 2 of arXiv 2602.17410, less one padding user and item; the data are LC-Rec's (5-core, repeats dropped).
PUBLISHED = {
    "Musical_Instruments": Published(
        24_772, 9_922, 206_153, "Table 2 of arXiv 2602.17410, less one padding user and item"
    ),
    "Arts_Crafts_and_Sewing": Published(
        45_141, 20_956, 390_832, "Table 2 of arXiv 2602.17410, less one padding user and item"
    ),
    "Video_Games": Published(50_546, 16_859, 452_989, "Table 2 of arXiv 2602.17410, less one padding user and item"),
}


def category(dataset: str) -> str | None:
    """The Amazon category that a dataset's name stands for, None if it stands for none."""
    lower = {name.lower(): name for name in CATEGORIES} | {name.lower(): full for name, full in ALIASES.items()}
    return lower.get(dataset.lower().replace("-", "_"))
