"""Two small CSV files of a made-up shop, for the commands of docs/quickstart.md: a log and its items."""

import csv
import random
from datetime import datetime, timedelta

KINDS = ["lamp", "desk", "kettle", "bicycle", "tent", "guitar"]
COLOURS = ["red", "blue", "green", "black", "white"]
FORMS = ["small", "large", "folding", "light"]


def write_shop(folder, customers=450, seed=1):
    """Write log.csv and items.csv: every customer likes two kinds of things; 120 items, some 4,600 events."""
    rng = random.Random(seed)
    items = [
        (f"p{n + 1}", f"{form.capitalize()} {colour} {kind}", kind.capitalize(), f"A {form} {kind} in {colour}.")
        for n, (kind, colour, form) in enumerate((k, c, f) for k in KINDS for c in COLOURS for f in FORMS)
    ]
    write_csv(folder / "items.csv", ("sku", "name", "department", "text"), items)
    start, events = datetime(2024, 1, 1), []
    for number in range(customers):
        liked = rng.sample(KINDS, 2)
        wanted = [item[0] for item in items if item[2].lower() in liked]
        begin = start + timedelta(minutes=rng.randrange(300 * 24 * 60))
        for step, sku in enumerate(rng.sample(wanted, rng.randrange(6, 15))):
            when = begin + timedelta(hours=step * rng.randrange(1, 90))
            events.append((f"c{number + 1}", sku, when.strftime("%Y-%m-%d %H:%M:%S")))
    rng.shuffle(events)
    write_csv(folder / "log.csv", ("customer", "sku", "time"), events)


def write_csv(path, header, rows):
    """Write one CSV file."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
