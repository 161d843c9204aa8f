"""`recbole-blair search`: rank an item pool for queries, score it, or answer one query."""

from recbole_blair.errors import InputError
from recbole_blair.schema import DEFAULT_PLM

SUMMARY = "product search: score BM25, an encoder or both on a query set, or search a pool with one query"
EXAMPLE = "recbole-blair search --dataset=amazon-c4 --retriever=bm25"


def configure(parser):
    """Add the flags."""
    add = parser.add_argument
    add("--dataset", help="amazon-c4, esci, or a folder with test.csv and item_pool.jsonl[.gz]")
    add("--retriever", default="bm25", help="bm25, hybrid, tfidf-svd, or an encoder (hub id or folder)")
    add("--plm", default=DEFAULT_PLM, help="encoder of --retriever=hybrid")
    add("--query", help="search with this one query and print the items")
    add("--top", type=int, default=10, help="items printed for --query")
    add("--protocol", default="rows", help="rows: one right item a row (the papers); graded: E 1, S .1, C .01, I 0")
    add("--topk", default="10,50,100", help="cut-offs; the largest is the depth of the run file")
    add("--baseline", help="run folder to test against (paired); with --run: nothing is searched")
    add("--run", help="saved run folder to compare with --baseline")
    add("--data_path", default="dataset", help="where published sets and indexes are kept")
    add("--index_dir", help="folder of this pool's vectors and indexes (default: by the pool's hash)")
    add("--output_dir", help="run folder (default: runs/<time>-search-<retriever>-<dataset>)")
    add("--bm25_variant", default="lucene", help="lucene, robertson, atire, or released (the papers' script)")
    add("--k1", type=float, default=1.5, help="BM25 term saturation")
    add("--b", type=float, default=0.75, help="BM25 length normalisation")
    add("--stopwords", default="english", help="english or none")
    add("--stemmer", default="none", help="none or english")
    add("--index", default="exact", help="exact, hnsw or ivf (faiss; its recall against exact is printed)")
    add("--effort", type=int, help="candidates looked at (hnsw) or lists probed (ivf)")
    add("--fusion_depth", type=int, default=1000, help="items each side gives to hybrid")
    add("--search_precision", default="auto", help="fp32, bf16 (candidates, re-scored: same result) or auto")
    add("--memory_limit_mb", type=int, default=1024, help="working memory of exact search")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N")
    add("--precision", default="auto", help="of the encoder: fp32, bf16 or auto")
    add("--pooling", help="cls or mean (default: what the encoder declares)")
    add("--max_length", type=int, default=512, help="tokens kept of a text")
    add("--revision", help="hub version of the data set's files")
    add("--plm_revision", help="hub version of the encoder")
    add("--bootstrap", type=int, default=1000, help="bootstrap samples of the intervals; 0 = none")
    add("--seed", type=int, default=0, help="of bootstrap, tests and approximate indexes")
    add("--quiet", action="store_true", help="no progress bars")


def run(args):
    """Answer one query, compare two runs, or score a query set."""
    from recbole_blair.search import display

    if args.run is not None:
        if args.baseline is None:
            raise InputError("--run=A needs --baseline=B, the run folder to compare with")
        from recbole_blair.search.evaluate import compare_runs

        print(display.comparison_table(compare_runs(args.run, args.baseline, args.seed)))
        return 0
    if not args.dataset:
        raise InputError(f"--dataset is missing: amazon-c4, esci or a folder; example: {EXAMPLE}")
    if args.query is not None:
        from recbole_blair.search.evaluate import answer

        found = answer(args.query, args.dataset, args.retriever, args.top, **_where(args), **_ranking(args))
        print(display.answer_table(found))
        return 0
    return _score(args)


def _score(args):
    """Score a query set and print the tables."""
    from recbole_blair.search import display
    from recbole_blair.search.evaluate import evaluate

    report = evaluate(
        args.dataset,
        args.retriever,
        output_dir=args.output_dir,
        protocol=args.protocol,
        ks=_cutoffs(args.topk),
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


def _index_line(report):
    """Return the line on an approximate index, or None."""
    index = report["depends_on"].get("index")
    if not index:
        return None
    recall = next(f"{key} = {value:.4f}" for key, value in index.items() if key.startswith("recall@"))
    return f"approximate index {index['kind']}: {recall}, checked on {index['checked_queries']} queries"


def _cutoffs(text):
    """Parse `10,50,100`."""
    try:
        return [int(part) for part in str(text).split(",") if part.strip()]
    except ValueError:
        raise InputError(f"--topk={text!r}: whole numbers, as in --topk=10,100") from None


def _where(args):
    """Return where things are."""
    return {"data_path": args.data_path, "index_dir": args.index_dir, "revision": args.revision}


def _ranking(args):
    """Return the arguments of the ranker."""
    encoding = {key: getattr(args, key) for key in ("device", "precision", "pooling", "max_length")}
    encoding["revision"] = args.plm_revision
    bm25 = {"variant": args.bm25_variant, "k1": args.k1, "b": args.b}
    return {
        "plm": args.plm,
        "bm25": bm25 | {"stopwords": args.stopwords, "stemmer": args.stemmer},
        "encoding": encoding,
        "index_kind": args.index,
        "effort": args.effort,
        "search_precision": args.search_precision,
        "memory_limit_mb": args.memory_limit_mb,
        "fusion_depth": args.fusion_depth,
        "progress": not args.quiet,
    }
