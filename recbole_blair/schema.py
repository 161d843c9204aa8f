"""Names and constants every room shares: fields, instants, domains, file suffixes. Imports nothing of ours.

Sources: arXiv:2403.03952, section 3.2 (the two instants, the 50-item history) and the published list of the 33
categories of Amazon Reviews 2023.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

USER_ID = "user_id"
ITEM_ID = "item_id"
ITEM_SEQ = "item_id_list"
ITEM_SEQ_LEN = "item_length"
TIMESTAMP = "timestamp"
TIMESTAMP_SEQ = "timestamp_list"
TARGET_SEQ = "target_list"  # the item to predict at each position of a training sequence, 0 where none is

# Absolute-timestamp split, Unix ms UTC: train t < VALID_START_MS <= valid < TEST_START_MS <= test.
VALID_START_MS = 1628643414042
TEST_START_MS = 1658002729837
MAX_HISTORY = 50  # the latest items kept as a row's history

SPLITS = ("train", "valid", "test")
PROTOCOLS = ("timestamp", "last_out", "random")
# protocol=random: distinct (user, item) pairs, shuffled and cut at these shares, as BLaIR-Bench has it.
SPLIT_SEED = 101
SPLIT_SHARES = (4, 3, 3)  # train, valid, test

VERSION = "0.1.0"  # of this project; setup.py reads it here

INTER_COLUMNS = (
    f"{USER_ID}:token",
    f"{ITEM_SEQ}:token_seq",
    f"{ITEM_ID}:token",
    f"{TIMESTAMP_SEQ}:float_seq",
    f"{TIMESTAMP}:float",
)
PAIR_COLUMNS = (INTER_COLUMNS[0], INTER_COLUMNS[2], INTER_COLUMNS[4])  # of protocol=random: rows without a history
ITEM_COLUMNS = (
    f"{ITEM_ID}:token",
    "title:token",
    "text:token",
    "categories:token_seq",
    "store:token",
    "price:float",
)

ITEM_SUFFIX = ".item"
FEATURE_SUFFIX = ".feature"
FEATURE_HEADER_SUFFIX = ".feature.json"
# Pairs whose text is near an evaluation review's, for --exclude_reviews; lies in the folder of the pairs and is none.
MATCHED_REVIEWS = "contaminated_reviews.jsonl"
BEFORE_RANKS, AFTER_RANKS = (
    "before_ranks.parquet",
    "after_ranks.parquet",
)  # of held-out pairs, in a pretraining's folder
STATS_SUFFIX = ".stats.json"
CACHE_DIR = ".cache"
KEPT_ITEMS = "items-"  # in .cache/: .item files of builds that were made again

SAMPLE = "sample"
SAMPLE_PATTERN = rf"{SAMPLE}-u(\d+)-i(\d+)"  # the generated dataset at another size: users, items
HF_DATASET = "McAuley-Lab/Amazon-Reviews-2023"
DEFAULT_PLM = "hyp1231/blair-roberta-base"
TFIDF_SVD = "tfidf-svd"

DOMAINS = (
    "All_Beauty",
    "Amazon_Fashion",
    "Appliances",
    "Arts_Crafts_and_Sewing",
    "Automotive",
    "Baby_Products",
    "Beauty_and_Personal_Care",
    "Books",
    "CDs_and_Vinyl",
    "Cell_Phones_and_Accessories",
    "Clothing_Shoes_and_Jewelry",
    "Digital_Music",
    "Electronics",
    "Gift_Cards",
    "Grocery_and_Gourmet_Food",
    "Handmade_Products",
    "Health_and_Household",
    "Health_and_Personal_Care",
    "Home_and_Kitchen",
    "Industrial_and_Scientific",
    "Kindle_Store",
    "Magazine_Subscriptions",
    "Movies_and_TV",
    "Musical_Instruments",
    "Office_Products",
    "Patio_Lawn_and_Garden",
    "Pet_Supplies",
    "Software",
    "Sports_and_Outdoors",
    "Subscription_Boxes",
    "Tools_and_Home_Improvement",
    "Toys_and_Games",
    "Video_Games",
)  # the 33 categories; items whose category was lost are published as a 34th file, "Unknown"
UNKNOWN_DOMAIN = "Unknown"

# The papers' short names.
ALIASES = {
    "Beauty": "All_Beauty",
    "Games": "Video_Games",
    "Office": "Office_Products",
    "Baby": "Baby_Products",
    "Music": "Musical_Instruments",
}


def format_ms(time_ms: int) -> str:
    """Return an instant for messages: 1628643414042 as `2021-08-11 00:56:54.042 UTC (1628643414042)`."""
    try:
        date = datetime.fromtimestamp(0, timezone.utc) + timedelta(milliseconds=int(time_ms))
    except OverflowError:
        return str(time_ms)
    text = date.strftime("%Y-%m-%d %H:%M:%S") + (f".{time_ms % 1000:03d}" if time_ms % 1000 else "")
    return f"{text} UTC ({time_ms})"


def format_setting(key: str, value: object) -> str:
    """Return a setting for messages, `key=value`; an instant also as a date."""
    return f"{key}={format_ms(value) if key.endswith('_start_ms') and isinstance(value, int) else repr(value)}"
