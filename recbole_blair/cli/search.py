"""`recbole-blair search`: rank an item pool for queries, score it, or answer one query."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from recbole_blair.cli.options import (
    ENCODER_OPTIONS,
    PRECISION_KIND,
    add_encoder_options,
    encoder_options,
    refuse_unused,
)
from recbole_blair.errors import InputError, require
from recbole_blair.figures import fraction
from recbole_blair.schema import DEFAULT_PLM

if TYPE_CHECKING:
    from argparse import Namespace

    from recbole_blair.cli.options import Parser

# Inside the functions: what loads NumPy and torch (search).

SUMMARY = "product search: score BM25, an encoder or both on a query set, or search a pool with one query"
EXAMPLE = "recbole-blair search --dataset=amazon-c4 --retriever=bm25"


def configure(parser: Parser) -> None:
    """Add the flags."""
    add = parser.add
    where = "amazon-c4, esci, reddit-movie, a folder with test.csv and item_pool.jsonl[.gz], or a build (with --query)"
    add("--dataset", help=where)
    add(
        "--pool_text",
        kind="str, all|title",
        default="all",
        help="title: the items' titles alone, from a published pool of titles or cut from the pool's texts",
    )
    add("--retriever", key="plm", default="bm25", help="bm25, hybrid, tfidf-svd, or an encoder (hub id or folder)")
    add("--plm", key="plm", help=f"encoder of --retriever=hybrid; empty: {DEFAULT_PLM}")
    add("--query", help="search with this one query and print the items")
    add("--top", kind="int, >=1, <=1e6", default=10, help="items printed for --query")
    add(
        "--protocol",
        kind="str, rows|graded",
        default="rows",
        help="rows: one right item per row (the papers); graded: E 1, S .1, C .01, I 0",
    )
    add("--topk", key="topk", default="10,50,100", help="cut-offs; the largest is the depth of the run file")
    add("--baseline", kind="path", help="run folder to test against (paired); with --run: nothing is searched")
    add("--run", kind="path", help="saved run folder to compare with --baseline")
    add("--data_path", kind="path", default="dataset", help="where builds, published sets and indexes are kept")
    add("--index_dir", kind="path", help="folder of this pool's vectors and indexes; empty: by the pool's hash")
    add("--output_dir", kind="path", help="run folder; empty: runs/<time>-search-<retriever>-<dataset>")
    variants = "str, lucene|robertson|atire|released"
    add("--bm25_variant", kind=variants, help="released: the papers' script; empty: lucene")
    add("--k1", kind="float, >=0, <=1000", help="BM25 term saturation; empty: 1.5")
    add("--b", kind="float, >=0, <=1", help="BM25 length normalisation; empty: 0.75")
    add("--stopwords", kind="str, english|none", help="of BM25; empty: english")
    add("--stemmer", kind="str, none|english", help="of BM25; empty: none")
    add(
        "--index",
        kind="str, exact|hnsw|ivf",
        default="exact",
        help="exact, hnsw or ivf (faiss; its recall against exact is printed)",
    )
    add("--effort", kind="int, >=1, <=1e6", help="candidates looked at (hnsw) or lists probed (ivf)")
    add("--fusion_depth", kind="int, >=1, <=1e6", help="items each side gives to hybrid; empty: 1000")
    add(
        "--search_precision",
        key="precision",
        default="auto",
        help="fp32, bf16 (candidates, re-scored: same result) or auto",
    )
    add("--memory_limit_mb", kind="int, >=1, <=1e7", default=1024, help="working memory of exact search")
    add("--device", key="device", default="auto", help="auto, cpu, cuda, cuda:N")
    add("--precision", kind=PRECISION_KIND, default="auto", help="of the encoder: fp32, bf16, fp16 or auto")
    add_encoder_options(parser, revision="--plm_revision")
    add("--plm_query_prompt", help="before each query, or a prompt's name; empty: the encoder's own")
    add("--revision", help="hub version of the data set's files")
    add("--bootstrap", kind="int, >=0, <=1e6", default=1000, help="bootstrap samples of the intervals; 0 = none")
    add("--seed", key="seed", default=0, help="of bootstrap, tests and approximate indexes")
    add("--quiet", action="store_true", help="no progress bars")


def run(args: Namespace) -> int:
    """Answer one query, compare two runs, or score a query set."""
    hybrid, with_bm25 = args.retriever == "hybrid", args.retriever in ("bm25", "hybrid")
    refuse_unused(args, ("effort",), args.index != "exact", "--index=hnsw and ivf")
    refuse_unused(args, ("plm", "fusion_depth"), hybrid, "--retriever=hybrid")
    refuse_unused(args, ("bm25_variant", "k1", "b", "stopwords", "stemmer"), with_bm25, "--retriever=bm25 and hybrid")
    require(f"--retriever={args.retriever}", *(["bm25s"] if with_bm25 else []))
    require(f"--stemmer={args.stemmer}", *(["Stemmer"] if args.stemmer == "english" else []), instead=", or use none")
    require(f"--index={args.index}", *(["faiss"] if args.index != "exact" else []), instead=", or use exact")
    if args.retriever == "bm25":
        ours = [f"plm_{option}" for option in ENCODER_OPTIONS]
        refuse_unused(args, ["pooling", *(name for name in ours if hasattr(args, name))], False, "encoders")
    elif args.run is None:
        from recbole_blair.text.encoders import check_for_encoding  # heavy: loads NumPy

        check_for_encoding(args.plm or DEFAULT_PLM if hybrid else args.retriever, encoder_options(args))
    from recbole_blair.search import display

    if args.run is not None:
        if args.baseline is None:
            raise InputError("--run=A needs --baseline=B, the run folder to compare with")
        from recbole_blair.search.evaluate import compare_runs

        print(display.comparison_table(compare_runs(args.run, args.baseline, args.seed)))
        return 0
    if not args.dataset:
        raise InputError(f"--dataset is missing: amazon-c4, esci, reddit-movie or a folder; example: {EXAMPLE}")
    if args.query is not None:
        from recbole_blair.search.evaluate import answer

        found = answer(args.query, args.dataset, args.retriever, args.top, **_where(args), **_ranking(args))
        print(display.answer_table(found))
        return 0
    return _score(args)


def _score(args: Namespace) -> int:
    """Score a query set and print the tables."""
    from recbole_blair.search import display
    from recbole_blair.search.evaluate import evaluate

    report = evaluate(
        args.dataset,
        args.retriever,
        output_dir=args.output_dir,
        protocol=args.protocol,
        ks=args.topk,
        n_boot=args.bootstrap,
        baseline=args.baseline,
        seed=args.seed,
        **_where(args),
        **_ranking(args),
    )
    title = f"{report['retriever']} on {report['dataset']}, protocol {report['protocol']}"
    print(f"{title}: {report['queries']} queries, {report['items']} items")
    print(display.score_table(report))
    for line in (report["depends_on"].get("bm25_released"), _index_line(report), display.missing_line(report)):
        if line:
            print(line)
    if "against" in report:
        print(f"\nagainst {report['against']['run']}:\n{display.comparison_table(report['against'])}")
    print(f"saved in {report['output_dir']}")
    return 0


def _index_line(report: dict[str, Any]) -> str | None:
    """Return the line on an approximate index, or None."""
    index = report["depends_on"].get("index")
    if not index:
        return None
    recall = next(f"{key} = {fraction(value)}" for key, value in index.items() if key.startswith("recall@"))
    return f"approximate index {index['kind']}: {recall}, checked on {index['checked_queries']} queries"


def _where(args: Namespace) -> dict[str, Any]:
    """Return where things are."""
    return {"data_path": args.data_path, "index_dir": args.index_dir, "revision": args.revision,
            "pool_text": args.pool_text}  # fmt: skip


def _ranking(args: Namespace) -> dict[str, Any]:
    """Return the arguments of the ranker."""
    bm25 = {"variant": args.bm25_variant, **{key: getattr(args, key) for key in ("k1", "b", "stopwords", "stemmer")}}
    ranking = {
        "plm": args.plm or DEFAULT_PLM,
        "bm25": {key: value for key, value in bm25.items() if value is not None},
        "encoding": encoder_options(args),
        "index_kind": args.index,
        "effort": args.effort,
        "search_precision": args.search_precision,
        "memory_limit_mb": args.memory_limit_mb,
        "fusion_depth": args.fusion_depth,
        "progress": not args.quiet,
    }
    return {key: value for key, value in ranking.items() if value is not None}
