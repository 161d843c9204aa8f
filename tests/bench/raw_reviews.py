"""Raw files of the size and shape of the published ones, for the conversion's bench.

Which item is reviewed when comes from the sample dataset's world; the sizes are those of Video_Games. Targets:

- users: 2.8 M for 4.6 M reviews, seven in ten with a single one (so it is in Video_Games: 2,550,503 reviews are left
  in arXiv:2403.03952, table 3, which counts users with two or more). The others have 3.2 on average, with a long
  tail. What comes out: 2,481,056 such reviews, 132,623 items, a mean history of 3.73 (there: 115,815 and 4.54).
- a review line: 580 bytes on average, the ten official fields. That is Video_Games' file (2.7 GB, 4.6 M lines); the
  slices of real files measured beside it have 398 (Appliances) and 549 (All_Beauty). Lengths of the text follow a
  log-normal distribution whose median is about half its mean, as those two files' are; one review in twenty has a
  picture.
- an item's text: 660 characters on average, as Games has (arXiv:2403.03952, table 3); 84 % of the items hold no
  escape, tag or entity, as in the 13,027 items of the slices of real metadata.
"""

import gzip
import json
import os
from pathlib import Path

import numpy as np

from dataset_tools.raw import sample, sample_text
from dataset_tools.raw.domains import raw_relative

LINE_BYTES = 580
TEXT_SIGMA = 1.2  # mean over median = exp(sigma^2 / 2) = 2.05
TEXT_LIMIT = 5_000
PICTURE_SHARE = 0.05
ITEM_CHARACTERS = 660
PLAIN_SHARE = 0.84
MADE_PLAIN = {"<p>": "", "</p>": "", "<br />": " ", "&amp;": "&", '"': " inch", "\u00e9": "e", "\u00e8": "e"}
POOL_CHARACTERS = 1 << 20
SINGLE_SHARE = 0.71
EXTRA_EVENTS = (-0.516, 1.4)  # beyond two: floor of a log-normal with these two parameters, mean 1.19
EVENTS_A_USER = SINGLE_SHARE + (1 - SINGLE_SHARE) * 3.19
MOST_EVENTS = 2_000
SEED = 17
PICTURE = json.dumps(
    [
        {f"{size}_image_url": f"https://images.example.com/images/I/71generated{size}._SL1600_.jpg" for size in sizes}
        | {"attachment_type": "IMAGE"}
        for sizes in (("small", "medium", "large"),)
    ]
)


def write_raw(root, name, users, items, compress=False):
    """Write the raw files, unless they are there; return (review path, metadata path)."""
    suffix = ".gz" if compress else ""
    review, meta = (Path(root) / (raw_relative(kind, name) + suffix) for kind in ("review", "meta"))
    if review.is_file() and meta.is_file():
        return review, meta
    rng = np.random.default_rng(SEED)
    world = sample.build_world(users, items, count=events_of_users(rng, users))
    ids = sample.item_ids(items)
    pool = build_pool(rng)
    _write(review, review_blocks(world, ids, rng, pool))
    _write(meta, metadata_lines(world, ids, rng, pool))  # last: its presence says both are whole
    return review, meta


def events_of_users(rng, users):
    """Return (users,) the number of reviews of each."""
    extra = np.floor(np.exp(EXTRA_EVENTS[0] + EXTRA_EVENTS[1] * rng.standard_normal(users))).astype(np.int64)
    return np.where(rng.random(users) < SINGLE_SHARE, 1, 2 + np.minimum(extra, MOST_EVENTS))


def build_pool(rng):
    """Return running text without anything that JSON escapes; texts are cut out of it."""
    words = sample_text.make_vocabulary(sample_text.Draw(rng), 4_000)
    popular = np.minimum((rng.random(POOL_CHARACTERS // 6) ** 3 * len(words)).astype(int), len(words) - 1)
    return " ".join(words[number] + ("." if number % 11 == 0 else "") for number in popular.tolist())


def text_lengths(rng, n, mean):
    """Return (n,) lengths: log-normal, cut at both ends, with this mean before the cut."""
    lengths = np.exp(rng.standard_normal(n) * TEXT_SIGMA + np.log(mean) - TEXT_SIGMA**2 / 2)
    return np.clip(lengths, 2, TEXT_LIMIT).astype(np.int64)


def review_blocks(world, ids, rng, pool):
    """Yield the review lines, some thousand users at a time."""
    starts = np.concatenate([[0], np.cumsum(world.user_events)])
    frame = len(_line(5, "", "", "[]", ids[0], "A" * 28, 10**12, 0))
    mean = (LINE_BYTES - frame - 22 - PICTURE_SHARE * len(PICTURE)) * 1.03  # the cut takes some 3 %
    users = len(world.user_events)
    for first in range(0, users, sample.WRITE_USERS):
        last = min(first + sample.WRITE_USERS, users)
        yield "".join(_review_lines(world, ids, rng, pool, first, last, starts, mean))


def _review_lines(world, ids, rng, pool, first, last, starts, mean):
    begin, end = starts[first], starts[last]
    n = end - begin
    names = list(sample.user_ids(first, last))
    owners = np.repeat(np.arange(last - first), world.user_events[first:last]).tolist()
    lengths, title_lengths = text_lengths(rng, n, mean).tolist(), (4 + rng.random(n) * 37).astype(int).tolist()
    places = (rng.random(n) * (len(pool) - TEXT_LIMIT)).astype(int).tolist()
    pictures, votes = (rng.random(n) < PICTURE_SHARE).tolist(), (rng.random(n) ** 8 * 30).astype(int).tolist()
    values = (array[begin:end].tolist() for array in (world.item, world.time_ms, world.rating))
    for number, (item, time_ms, rating) in enumerate(zip(*values)):
        place = places[number]
        text = pool[place : place + lengths[number]]
        if place % 16 == 0:
            text += '<br />It said \\"new\\".'
        title = pool[place + 7 : place + 7 + title_lengths[number]]
        images = PICTURE if pictures[number] else "[]"
        yield _line(rating, title, text, images, ids[item], names[owners[number]], time_ms, votes[number])


def _line(rating, title, text, images, asin, user, time_ms, votes):
    return (
        f'{{"rating": {rating}.0, "title": "{title}", "text": "{text}", "images": {images}, "asin": "{asin}", '
        f'"parent_asin": "{asin}", "user_id": "{user}", "timestamp": {time_ms}, '
        f'"helpful_vote": {votes}, "verified_purchase": true}}\n'
    )


def metadata_lines(world, ids, rng, pool):
    """Yield the metadata lines; the sample's, with features and descriptions of Games' length."""
    niche = world.niche
    words = sample_text.build_words(int(niche[-1]) + 1, sample.NICHES_PER_THEME, sample.SEED)
    products = sample_text.build_products(words, niche, sample.SEED)
    lengths = text_lengths(rng, len(ids), ITEM_CHARACTERS)
    plain = rng.random(len(ids)) < PLAIN_SHARE
    step = round(1 / sample.NO_METADATA)
    for number, (item_id, product) in enumerate(zip(ids, products)):
        if number % step == step - 1:
            continue
        fields = product.metadata()
        written = len(fields["title"]) + sum(map(len, fields["features"] + fields["description"]))
        missing = int(lengths[number]) - written
        if missing > 20:
            place = number * 97 % (len(pool) - TEXT_LIMIT)
            half = missing // 2
            fields["features"] = [*fields["features"], pool[place : place + half]]
            fields["description"] = [*fields["description"], pool[place + half : place + missing]]
        if plain[number]:
            fields = {key: _made_plain(value) for key, value in fields.items()}
        line = {"main_category": "Sample", **fields, "parent_asin": item_id}
        yield json.dumps(line, ensure_ascii=False) + "\n"


def _made_plain(value):
    if isinstance(value, list):
        return [_made_plain(one) for one in value]
    if isinstance(value, str):
        for old, new in MADE_PLAIN.items():
            value = value.replace(old, new)
    return value


def _write(path, blocks):
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    opener = gzip.GzipFile if path.suffix == ".gz" else open
    options = {"compresslevel": 1} if path.suffix == ".gz" else {"buffering": 1 << 20}
    with opener(temporary, "wb", **options) as file:
        for block in blocks:
            file.write(block.encode())
    os.replace(temporary, path)
