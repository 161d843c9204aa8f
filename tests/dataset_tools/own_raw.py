"""One small log, written in the formats of public datasets."""

import gzip
import json
import time

USERS, ITEMS, EVENTS = 30, 12, 8
START_S = 1_500_000_000
DAY_S = 86_400
NAMES = [f"Thing {n}" for n in range(ITEMS)]
PRICES = {1: "Free To Play"}
GENRES = [["Action", "Comedy"], ["Drama"], ["Action", "Children's"]]


def events():
    """Yield (user, item, time in s), sorted by user; every time is a day of its own, so that dates keep the order."""
    for user in range(USERS):
        for step in range(EVENTS):
            yield user + 1, (user * 5 + step) % ITEMS + 1, START_S // DAY_S * DAY_S + (step * USERS + user) * DAY_S


def iso(second, pattern="%Y-%m-%d %H:%M:%S"):
    return time.strftime(pattern, time.gmtime(second))


def genres(item):
    return GENRES[item % len(GENRES)]


def write(path, lines, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(f"{line}\n" for line in lines).encode(encoding)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def write_shop(folder):
    write(folder / "log.csv", ["customer,sku,time", *(f"c{u},p{i},{iso(t)}" for u, i, t in events())])
    rows = [f'p{i},{NAMES[i - 1]},{genres(i)[0]},"Thing, number {i}."' for i in range(1, ITEMS + 1)]
    write(folder / "items.csv", ["sku,name,department,text", *rows])


def write_ml_1m(folder):
    write(folder / "ml-1m/ratings.dat", [f"{u}::{i}::4::{t}" for u, i, t in events()])
    rows = [f'{i}::{NAMES[i - 1]} "é" (1995)::{"|".join(genres(i))}' for i in range(1, ITEMS + 1)]
    write(folder / "ml-1m/movies.dat", rows, "latin-1")


def write_ml_latest(folder):
    header = "userId,movieId,rating,timestamp"
    write(folder / "ml-latest/ratings.csv", [header, *(f"{u},{i},3.5,{t}" for u, i, t in events())])
    rows = [f'{i},"{NAMES[i - 1]}, The (1995)",{"|".join(genres(i))}' for i in range(1, ITEMS + 1)]
    write(folder / "ml-latest/movies.csv", ["movieId,title,genres", *rows])


def write_yelp(folder, shift_s=0):
    rows = [
        {"review_id": "r", "user_id": f"u_{u}", "business_id": f"b-{i}", "stars": 5.0, "date": iso(t + shift_s)}
        for u, i, t in events()
    ]
    write(folder / "yelp/yelp_academic_dataset_review.json", map(json.dumps, rows))
    items = [
        {"business_id": f"b-{i}", "name": NAMES[i - 1], "city": "Reno", "state": "NV", "categories": None if i == 3 else
         ", ".join(genres(i)), "attributes": {"WiFi": "u'free'"}} for i in range(1, ITEMS + 1)
    ]  # fmt: skip
    write(folder / "yelp/yelp_academic_dataset_business.json", map(json.dumps, items))


def write_steam(folder):
    rows = [
        f"{{u'username': u'Player {u}', u'hours': 0.1, u'product_id': u'{i}0', u'date': u'{iso(t, '%Y-%m-%d')}', "
        f"u'text': u'it\\'s \\u2764 \\ud83d\\ude00', u'early_access': False}}"
        for u, i, t in events()
    ]
    write(folder / "steam/steam_reviews.json.gz", rows)
    items = [
        f"{{u'publisher': u'P', u'genres': {genres(i)!r}, u'app_name': u'{NAMES[i - 1]}', u'tags': [u'Fun', "
        f"u'2D'], u'specs': [u'Single-player'], u'price': {PRICES.get(i, 4.99)!r}, u'id': u'{i}0', "
        f"u'developer': u'Dev {i}'}}"
        for i in range(1, ITEMS + 1)
    ]
    write(folder / "steam/steam_games.json.gz", items)


def write_yelp_2019(folder):
    """The first event of each user, of eight, is of 2018."""
    write_yelp(folder, 1_546_300_800 - (START_S // DAY_S + USERS) * DAY_S)


def write_xwines(folder):
    write(folder / "xwines/XWines_Slim_150K_ratings.csv", ["UserID,WineID,Date", *(f"{u},{i},{iso(t)}" for u, i, t in
          events())])  # fmt: skip
    header = "WineID,WineName,Type,Grapes,Harmonize,Body,Acidity,Country,RegionName,WineryName"
    rows = [
        f"{i},{NAMES[i - 1]},Red,['Muscat'],\"['Beef', 'Pork']\",Full,High,Chile,Maipo,W" for i in range(1, ITEMS + 1)
    ]
    write(folder / "xwines/XWines_Slim_1K_wines.csv", [header, *rows])


WRITERS = {
    "shop": write_shop, "ml-1m": write_ml_1m, "ml-latest": write_ml_latest, "yelp": write_yelp, "steam": write_steam,
    "yelp-2019": write_yelp_2019, "xwines_slim": write_xwines,
}  # fmt: skip
