"""From `--dataset` to files: a folder, a build, or a published data set that is downloaded where it is missing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from recbole_blair.errors import InputError
from recbole_blair.files.read import shown, why_no_folder
from recbole_blair.files.write import whole_file
from recbole_blair.schema import HF_DATASET, ITEM_ID, ITEM_SUFFIX, UNKNOWN_DOMAIN
from recbole_blair.search import esci, readers, tasks
from recbole_blair.text.features import read_item_header, read_items

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from recbole_blair.search.readers import Pool
    from recbole_blair.search.tasks import Task

C4, ESCI, REDDIT = "amazon-c4", "esci", "reddit-movie"
C4_REPO, ESCI_REPO, BENCH_REPO = "McAuley-Lab/Amazon-C4", "tasksource/esci", "McAuley-Lab/BLaIR-Bench-API"
BENCH_FOLDERS = {C4: "prod_search_dls/Amazon-C4", ESCI: "prod_search_dls/esci", REDDIT: "prod_search_dls/Reddit_Movie"}
TITLE_FILE = dict(zip(BENCH_FOLDERS, readers.TITLE_FILES))  # its pool of titles, in that folder of BENCH_REPO
CATEGORY_FILE = "asin2category.json"
PUBLISHED = (C4, ESCI, REDDIT)


class Files(NamedTuple):
    """What a data set's folder holds; None = not there."""

    name: str
    folder: Path
    queries: Path | None
    pool: Path | None
    examples: Path | None
    products: Path | None
    categories: Path | None


def find_files(
    dataset: str, data_path: Path | str = "dataset", revision: str | None = None, download: bool = True,
    pool_text: str = "all",
) -> Files:  # fmt: skip
    """Find a data set's files: in the folder given, its parent (a pool shared by several), or `<data_path>/<name>`.

    The pool of a build, which `prepare` makes, are the items of its `.item` file.

    Args:
        dataset: `amazon-c4`, `esci`, `reddit-movie` (titles alone), a folder, or the name of one in `data_path`.
        data_path: where published sets are kept and downloaded to.
        revision: hub version of the download.
        download: fetch what a published set lacks.
        pool_text: `title` takes a pool of titles alone where there is one, and fetches that where there is no pool.

    Raises:
        InputError: no such folder, no pool in it, or no network for a published set.
    """
    folder = Path(dataset)
    if dataset in PUBLISHED and not folder.is_dir():
        folder = Path(data_path) / dataset
        if download:
            _download(dataset, folder, revision, pool_text)
    elif Path(dataset).name == dataset and why_no_folder(folder) and not why_no_folder(Path(data_path) / dataset):
        folder = Path(data_path) / dataset
    if why_no_folder(folder):
        raise InputError(
            f"dataset {shown(dataset)!r} is neither a folder, nor a build in {data_path}, nor one of "
            f"{', '.join(PUBLISHED)}; a folder holds {readers.QUERY_FILE} and item_pool.jsonl[.gz]"
        )
    files = _look(folder, pool_text)
    if files.pool is None and files.products is None:
        raise InputError(
            f"{folder} holds no item pool; put one of {', '.join(readers.POOL_FILES)} there or in its parent "
            f"(ESCI: or {esci.PRODUCTS_FILE}). To draw one from raw metadata: python -m dataset_tools.pools "
            f"--queries={folder / readers.QUERY_FILE} --raw_dir=<raw_dir> --output={folder / readers.POOL_FILES[1]}"
        )
    return files


def _look(folder: Path, pool_text: str = "all") -> Files:
    """Return the files of a folder; the pool and the category mapping may lie in its parent."""
    here = folder.resolve()
    whole, titles = readers.POOL_FILES, readers.TITLE_FILES
    pools = [*titles, *whole] if pool_text == "title" else [*whole, *titles]

    def first(names: Sequence[str], folders: Sequence[Path]) -> Path | None:
        return next((f / n for f in folders for n in names if (f / n).is_file()), None)

    return Files(
        name=here.name,
        folder=folder,
        queries=first([readers.QUERY_FILE, f"{readers.QUERY_FILE}.gz"], [here]),
        pool=first([*pools, f"{here.name}{ITEM_SUFFIX}"], [here]) or first(pools, [here.parent]),
        examples=first([esci.EXAMPLES_FILE], [here]),
        products=first([esci.PRODUCTS_FILE], [here]),
        categories=first([CATEGORY_FILE], [here, here.parent]),
    )


def _download(dataset: str, folder: Path, revision: str | None, pool_text: str) -> None:
    """Fetch what a published set lacks; a complete folder needs no network."""
    files = _look(folder) if folder.is_dir() else None
    if dataset == REDDIT:
        if not (files and files.queries):
            fetch_flat(BENCH_REPO, f"{BENCH_FOLDERS[REDDIT]}/{readers.QUERY_FILE}", folder, revision)
        pool_text = "title"
    if pool_text == "title" and not (files and (files.pool or files.products)):
        fetch_flat(BENCH_REPO, f"{BENCH_FOLDERS[dataset]}/{TITLE_FILE[dataset]}", folder, revision)
        files = _look(folder)
    if dataset == REDDIT:
        return
    if dataset == C4:
        if not (files and files.queries):
            fetch(C4_REPO, readers.QUERY_FILE, folder, revision)
        if not (files and files.pool):
            fetch(C4_REPO, "sampled_item_metadata_1M.jsonl", folder, revision)
        return
    if not (files and (files.queries or files.examples)):
        _fetch_esci_examples(folder, revision)
    if not (files and files.categories):
        fetch(HF_DATASET, CATEGORY_FILE, folder, None)
    files = _look(folder)
    if files.queries is None:
        path = files.examples or folder / esci.EXAMPLES_FILE
        examples = esci.load_examples(path)
        categories = readers.load_asin2category(files.categories or folder / CATEGORY_FILE, set(examples["product_id"]))
        esci.write_queries(esci.published_rows(examples, categories, path), folder / readers.QUERY_FILE)


def _fetch_esci_examples(folder: Path, revision: str | None) -> None:
    """Fetch the test part of the ESCI data and keep the judgement columns under the official file name."""
    import pandas as pd  # heavy
    from huggingface_hub import HfApi  # heavy

    try:
        names = HfApi().list_repo_files(ESCI_REPO, repo_type="dataset", revision=revision)
    except Exception as error:
        raise _no_download(ESCI_REPO, esci.EXAMPLES_FILE, folder, error) from error
    parts = sorted(n for n in names if n.endswith(".parquet") and "test" in n)
    if not parts:
        raise InputError(f"{ESCI_REPO} holds no Parquet file of its test split; put {esci.EXAMPLES_FILE} in {folder}")
    tables = [pd.read_parquet(fetch(ESCI_REPO, part, folder, revision)) for part in parts]
    table = pd.concat(tables, ignore_index=True)
    table["split"] = "test"
    target = folder / esci.EXAMPLES_FILE
    with whole_file(target) as temporary:
        table[list(esci.EXAMPLE_COLUMNS)].to_parquet(temporary)


def fetch(repo: str, filename: str, folder: Path, revision: str | None = None) -> Path:
    """Download one file of a hub data set into `folder` (resumes, shows progress); returns its path.

    Raises:
        InputError: no network, no such file, or HF_HUB_OFFLINE is set; says which file to put where.
    """
    from huggingface_hub import hf_hub_download  # heavy

    try:
        return Path(hf_hub_download(repo, filename, repo_type="dataset", revision=revision, local_dir=str(folder)))
    except OSError as error:
        if getattr(error, "errno", None) == 28:
            raise
        raise _no_download(repo, filename, folder, error) from error
    except Exception as error:
        raise _no_download(repo, filename, folder, error) from error


def fetch_flat(repo: str, filename: str, folder: Path, revision: str | None = None) -> Path:
    """Do as `fetch`, and move the file out of the repository's folders into `folder`."""
    path = fetch(repo, filename, folder, revision)
    moved = path.replace(folder / path.name)
    for emptied in list(Path(filename).parents)[:-1]:  # the last is "."
        if not any((folder / emptied).iterdir()):
            (folder / emptied).rmdir()
    return moved


def _no_download(repo: str, filename: str, folder: Path, error: Exception) -> InputError:
    """Build the message for a download that failed."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return InputError(
        f"cannot fetch {filename} of {repo} ({reason[:200]}); without a network put that file into {folder}, or "
        "name a folder of your own: --dataset=<folder>"
    )


def load_pool(files: Files, pool_text: str = "all") -> tuple[Pool, dict[str, str] | None]:
    """Load a data set's pool and the category mapping beside it; `pool_text` as for `readers.load_pool`.

    Returns:
        pool: from its pool file, else all ESCI products. categories: item id -> category, from
        `asin2category.json` where there is one, for the pool's and the judged items.
    """
    if files.pool is not None:
        own_build = files.pool.suffix == ITEM_SUFFIX
        pool = pool_of_build(files.pool, pool_text) if own_build else readers.load_pool(files.pool, pool_text)
    else:
        pool = esci.pool_of_products(files.products or files.folder / esci.PRODUCTS_FILE, pool_text=pool_text)
    if files.categories is None:
        return pool, None
    wanted = set(pool.item_ids)
    if files.examples is not None:
        wanted |= set(readers.read_table(files.examples, ["product_id"], "the ESCI examples")["product_id"])
    categories = readers.load_asin2category(files.categories, wanted)
    own = [categories.get(i, c) for i, c in zip(pool.item_ids, pool.categories)]
    return replace(pool, categories=own), categories


def pool_of_build(path: Path, pool_text: str) -> Pool:
    """Return the items of a build's `.item` file, with their text or their title, and the last of their categories."""
    has_categories = "categories:token_seq" in read_item_header(path.parent)
    field = "title" if pool_text == "title" else "text"
    ids, texts, *categories = read_items(path.parent, [ITEM_ID, field, *["categories"] * has_categories])
    names = [row.split(" ")[-1].replace("_", " ") or UNKNOWN_DOMAIN for row in categories[0]] if categories else []
    return readers.Pool(ids, names or [UNKNOWN_DOMAIN] * len(ids), texts, str(path))


def load_task(files: Files, pool: Pool, protocol: str = "rows", categories: Mapping[str, str] | None = None) -> Task:
    """Load the queries of a data set under a protocol.

    `rows`: the query file as it is, or the ESCI examples through the published filters. `graded`: the ESCI examples
    with their four labels; from a query file alone all its rows are Exact, so siblings count and nothing else does.

    Args:
        categories: item id -> domain; None takes the pool's categories.

    Raises:
        InputError: no queries in the folder, an unknown protocol, or what the readers refuse.
    """
    if protocol not in tasks.PROTOCOLS:
        raise InputError(f"protocol {protocol!r} is unknown; choose from {', '.join(tasks.PROTOCOLS)}")
    if files.queries is not None and (protocol == "rows" or files.examples is None):
        queries = readers.load_queries(files.queries)
        if protocol == "rows":
            return tasks.build_rows_task(queries, pool, categories)
        return tasks.build_graded_task(tasks.judgements_of(queries), pool, categories)
    if files.examples is None:
        raise InputError(
            f"{files.folder} holds no queries; expected {readers.QUERY_FILE} (qid, query, item_id) or "
            f'{esci.EXAMPLES_FILE}. To search with one query of your own: --query="…"'
        )
    examples = esci.load_examples(files.examples)
    if protocol == "rows":
        known = categories or dict(zip(pool.item_ids, pool.categories))
        return tasks.build_rows_task(esci.published_rows(examples, known, files.examples), pool, categories)
    return tasks.build_graded_task(esci.graded_judgements(examples), pool, categories)
