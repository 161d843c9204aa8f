"""The small log of `own_raw` in the formats of the recipes' publishers, each with what its files do to a reader."""

import gzip
import json

from own_raw import ITEMS, NAMES, events, genres, iso, write


def write_crlf(path, lines):
    path.write_bytes(gzip.compress("".join(f"{line}\r\n" for line in lines).encode()))


def write_movielens(folder):
    """CRLF, quoted commas, doubled quotes, a text that means no genre, an item nobody rated; packed."""
    header = "userId,movieId,rating,timestamp"
    write_crlf(folder / "ratings.csv.gz", [header, *(f"{u},{i},3.5,{t}" for u, i, t in events())])
    rows = [f'{i},"{NAMES[i - 1]}, ""The"" é",{"|".join(genres(i))}' for i in range(2, ITEMS + 1)]
    rows += ["1,Thing 0,(no genres listed)", "99,Never seen,Drama"]
    write_crlf(folder / "movies.csv.gz", ["movieId,title,genres", *rows])


def write_movietweetings(folder):
    """Two characters between the fields, zeros in front of ids, a movie without genres, no header."""
    write(folder / "ratings.dat", [f"{u}::{i:07}::0::{t}" for u, i, t in events()])
    rows = [
        f'{i:07}::{NAMES[i - 1]} à: "x" (1995)::{"" if i == 2 else "|".join(genres(i))}' for i in range(1, ITEMS + 1)
    ]
    write(folder / "movies.dat", rows)


def write_xwines(folder):
    """Python lists in quoted cells, one with an apostrophe; times as text; names that repeat."""
    header = "RatingID,UserID,WineID,Vintage,Rating,Date"
    rows = [f"{n},{u},{i},1950,4.5,{iso(t)}" for n, (u, i, t) in enumerate(events())]
    write_crlf(folder / "XWines_Slim_150K_ratings.csv.gz", [header, *rows])
    header = "WineID,WineName,Type,Grapes,Harmonize,Body,Acidity,Country,RegionName,WineryName"
    rows = [
        f'{i},Thing {i % 2},Red,[\'Muscat\'],"[\'Beef\', ""Shepherd\'s pie""]",Full,High,Chile,Maipo,Winery {i}'
        for i in range(1, ITEMS + 1)
    ]
    write_crlf(folder / "XWines_Slim_1K_wines.csv.gz", [header, *rows])


def write_online_retail(folder):
    """A text in every row: the commonest one wins, `nan` and nulls never do; float customers with nulls."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [(f"{i:03}A", f" Thing {i - 1} ", t * 10**9, float(u)) for u, i, t in events()]
    first = [(f"{i:03}A", text, 10**18, None) for i in range(1, ITEMS + 1) for text in (None, "nan", "wrong", "odd")]
    names = ("StockCode", "Description", "InvoiceDate", "CustomerID")
    types = (pa.string(), pa.string(), pa.timestamp("ns"), pa.float64())
    columns = [pa.array(column, kind) for column, kind in zip(zip(*first, *rows), types)]
    pq.write_table(pa.table(columns, names), folder / "Online Retail.parquet")


def write_lastfm(folder):
    """A date in three columns, a row per tag, an unbalanced quote in a name, a date before 1973, a missing artist."""
    lines = [f"{u}\t{i}\t{tag}\t{iso(t, '%d').lstrip('0')}\t{iso(t, '%m').lstrip('0')}\t{iso(t, '%Y')}"
             for u, i, t in events() for tag in (1, 2)]  # fmt: skip
    header = "userID\tartistID\ttagID\tday\tmonth\tyear"
    write(folder / "user_taggedartists.dat.gz", [header, *lines, "1\t12\t1\t1\t9\t1956", "1\t77\t1\t1\t9\t2010"])
    rows = [f'{i}\t"Thing {i - 1} é\thttp://x\thttp://y' for i in range(1, ITEMS + 1)]
    write(folder / "artists.dat.gz", ["id\tname\turl\tpictureURL", *rows])


def write_steam_australia(folder):
    """Integer ids here and strings there, null dates, no title but an app_name, a game twice, one without id."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [(f"player {u}", i, iso(t, "%Y-%m-%d")) for u, i, t in events()]
    rows += [("player 1", 12, None), ("player 1", 1, "2030-01-01"), ("player 1", 404, "2010-01-01")]
    pq.write_table(
        pa.table([pa.array(column) for column in zip(*rows)], ["user_id", "item_id", "posted"]),
        folder / "user_reviews.parquet",
    )
    games = [
        f"{{u'id': u'{i}', u'{'app_name' if i % 2 else 'title'}': u'Thing {i - 1}', u'tags': [u'Fun'], u'specs': [], "
        f"u'developer': u'Dev', u'genres': [u'Action'], u'publisher': u'P', u'price': 'Free to play'}}"
        for i in range(1, ITEMS + 1)
    ]
    write(folder / "steam_games.json.gz", [*games, "{u'url': u'x'}", "{u'id': u'1', u'title': u'Later'}"])


def write_amazon_2014(folder):
    """JSON lines of reviews, Python literals of products, categories in lists of lists, a product without a title."""
    rows = [{"reviewerID": f"A{u}", "asin": f"B{i:03}", "unixReviewTime": t} for u, i, t in events()]
    write(folder / "reviews_Digital_Music_5.json.gz", map(json.dumps, rows))
    items = [
        {"asin": f"B{i:03}", "title": NAMES[i - 1], "categories": [["CDs", "Pop"], ["CDs", "It's"]], "price": 9.49}
        for i in range(1, ITEMS + 1)
    ]
    items[0]["description"], items[0]["brand"] = "d", "b"
    write(folder / "meta_Digital_Music.json.gz", map(repr, [*items, {"asin": "B404"}]))


def write_amazon_2018(folder):
    """Lists, HTML, a dict with newlines in its keys, a repeated pair."""
    rows = [
        {"reviewerID": f"A{u}", "asin": f"B{i:03}", "unixReviewTime": t, "style": {"x:": "y"}} for u, i, t in events()
    ]
    write(folder / "Gift_Cards_5.json.gz", map(json.dumps, [*rows, {**rows[0], "unixReviewTime": 1_900_000_000}]))
    items = [
        {"asin": f"B{i:03}", "title": NAMES[i - 1], "feature": ["<b>a</b>"], "category": ["Gift &amp; Card"],
         "brand": "b", "description": ["one", "two"], "details": {"\n  Size\n": "x"}, "price": "$5.00"}
        for i in range(1, ITEMS + 1)
    ]  # fmt: skip
    write(folder / "meta_Gift_Cards.json.gz", map(json.dumps, items))


def write_book_crossing(folder):
    """Semicolons, Latin-1, a quote behind a backslash; no times; an ISBN with a letter and zeros in front."""
    rows = [f'"{u}";"00{i}X";"0"' for u, i, _ in events()]
    write(folder / "BX-Book-Ratings.csv", ['"User-ID";"ISBN";"Book-Rating"', *rows], "latin-1")
    items = [f'"00{i}X";"Thing {i - 1}; \\"é\\"";"Author";"1999";"Publisher"' for i in range(1, ITEMS + 1)]
    header = '"ISBN";"Book-Title";"Book-Author";"Year-Of-Publication";"Publisher"'
    write(folder / "BX-Books.csv", [header, *items], "latin-1")


WRITERS = {
    "movielens_latest_small": write_movielens, "movietweetings": write_movietweetings, "xwines_slim": write_xwines,
    "uci_online_retail": write_online_retail, "hetrec2011_lastfm_2k": write_lastfm,
    "steam_australia": write_steam_australia, "amazon2014_digital_music_part": write_amazon_2014,
    "amazon2018_gift_cards": write_amazon_2018,
}  # fmt: skip
