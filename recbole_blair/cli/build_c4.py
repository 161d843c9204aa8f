"""`recbole-blair build-c4`: a product-search test set from your own five-star reviews."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_blair.errors import InputError, require
from recbole_blair.files.output import check_output_folder
from recbole_blair.schema import TEST_START_MS

if TYPE_CHECKING:
    from argparse import Namespace

    from dataset_tools.storage.resources import Resources
    from recbole_blair.cli.options import Parser

# Inside the functions: what loads DuckDB and the search room.

SUMMARY = "build a product-search test set: an LLM rewrites five-star reviews as requests"
EXAMPLE = (
    "recbole-blair build-c4 --dataset=Games --raw_dir=dataset/raw --n=200 --model=MODEL "
    "--base_url=http://localhost:8000/v1"
)


def configure(parser: Parser) -> None:
    """Add the flags."""
    add = parser.add
    add("--dataset", help="domains, as in A,B; all = the 33 categories")
    add("--raw_dir", kind="path", default="dataset", help="raw reviews and metadata, as prepare reads them")
    add(
        "--output_dir",
        kind="path",
        default="dataset/my-c4",
        help="where test.csv, item_pool.jsonl.gz and the journal go",
    )
    add("--n", kind="int, >=1, <=1e7", default=1000, help="requests wanted")
    add("--seed", key="seed", default=0, help="of the sample and the pool")
    add("--model", help="the server's name of the model")
    add("--base_url", help="any OpenAI-compatible server; empty: the client's own")
    add("--prompt", kind="path", help="YAML with system and user; empty: props/prompts/build_c4.yaml")
    add("--temperature", kind="float, >=0, <=2", default=0.7, help="of the model")
    add("--language", kind="str, en|any", default="en", help="en or any (no language check)")
    add("--attempts", kind="int, >=1, <=100", default=3, help="replies asked for a review before it is given up")
    add("--concurrency", key="plm_concurrency", default=8, help="calls at once")
    add("--timeout_s", kind="float, >0, <=1e5", default=60.0, help="of one call")
    add("--retries", kind="int, >=0, <=1000", default=6, help="server failures in a row that a call survives")
    add("--max_calls", kind="int, >=1, <=1e9", help="cap over all runs of this build; empty: 2 n")
    add("--max_tokens", kind="int, >=1", help="cap over all runs of this build; empty: 3 times the estimate")
    add("--price_in", kind="float, >=0", help="per million prompt tokens, for the estimate")
    add("--price_out", kind="float, >=0", help="per million reply tokens, for the estimate")
    add(
        "--candidates", kind="int, >=0, <=1e6", default=50, help="in-domain candidates a request; 0 = wanted items only"
    )
    add("--min_chars", kind="int, >=0, <=1e6", default=100, help="characters of a review")
    add("--start_ms", kind="int", default=TEST_START_MS, help="first instant of the test window, Unix ms")
    add("--memory_limit", key="memory_limit", default="4GB", help="of DuckDB")
    add("--dry_run", action="store_true", help="sample, print the estimate, call nothing")
    add("--quiet", action="store_true", help="no progress bars")


def run(args: Namespace) -> int:
    """Sample, estimate, rewrite, draw the pool."""
    from dataset_tools.pools.five_star_reviews import Draw, sample_reviews
    from dataset_tools.raw.domains import resolve_datasets
    from dataset_tools.storage.resources import Resources
    from recbole_blair.search.c4 import build

    if not args.dataset or not (args.model or args.dry_run):
        raise InputError(f"--dataset and --model are needed; example: {EXAMPLE}")
    prompt = build.load_prompt(args.prompt)
    if not args.dry_run:
        require("build-c4", "openai")
        check_output_folder(args.output_dir)
    domains = resolve_datasets(args.dataset, args.raw_dir)
    resources = Resources(args.memory_limit, progress=not args.quiet)
    draw = Draw(2 * args.n + 50, args.seed, args.min_chars, args.start_ms)
    reviews, counts = sample_reviews(args.raw_dir, domains, draw, resources)
    expected = build.estimate(reviews, args.n, prompt, args.price_in, args.price_out)
    max_calls = args.max_calls if args.max_calls is not None else 2 * args.n
    tokens = expected["prompt_tokens"] + expected["completion_tokens"]
    max_tokens = args.max_tokens if args.max_tokens is not None else 3 * tokens
    _print_estimate(args, counts, expected, max_calls, max_tokens)
    if len(reviews) < args.n:
        raise InputError(
            f"{len(reviews)} reviews with item metadata are there, --n={args.n} asked for; lower it or add domains"
        )
    if args.dry_run:
        return 0
    report = build.build_requests(
        reviews, args.n, args.output_dir, args.model, prompt, max_calls, max_tokens, args.attempts,
        args.concurrency, args.language, args.temperature, args.base_url, None, args.timeout_s, args.retries,
        progress=not args.quiet,
    )  # fmt: skip
    _write_pool(args, domains, resources)
    _print_report(args, report)
    return 0


def _print_estimate(
    args: Namespace, counts: dict[str, Any], expected: dict[str, Any], max_calls: int, max_tokens: int
) -> None:
    """Say what will be sent and what it may cost, before anything is sent."""
    eligible = sum(counts["eligible"].values())
    print(f"{eligible:,} eligible reviews; sampled ones without item metadata: {counts['item_without_metadata']}")
    cost = "no price given (--price_in, --price_out)" if expected["cost"] is None else f"about {expected['cost']:.2f}"
    print(
        f"estimate: {expected['calls']:,} calls, {expected['prompt_tokens']:,} prompt and "
        f"{expected['completion_tokens']:,} reply tokens, cost {cost}"
    )
    where = args.base_url or "the client's default server"
    print(f"caps: {max_calls:,} calls, {max_tokens:,} tokens; review texts are sent to {where}")


def _write_pool(args: Namespace, domains: list[str], resources: Resources) -> None:
    """Draw the candidate pool of the finished requests."""
    from dataset_tools.pools.candidate_pools import PoolRequest, build_pool, read_item_ids

    folder = Path(args.output_dir)
    request = PoolRequest(read_item_ids(folder / "test.csv"), n_candidates=args.candidates, seed=args.seed)
    build_pool(request, args.raw_dir, folder / "item_pool.jsonl.gz", domains, resources)


def _print_report(args: Namespace, report: dict[str, Any]) -> None:
    """Print the counts and the next command."""
    print(f"{report['requests']} requests, {report['calls']} calls, {report['tokens']:,} tokens")
    for name in ("rejected", "failed_calls"):
        if report[name]:
            print(f"{name}: " + ", ".join(f"{k} {v}" for k, v in sorted(report[name].items())))
    if report["given_up"]:
        print(f"reviews given up: {report['given_up']}")
    print(f"next: recbole-blair search --dataset={args.output_dir} --retriever=bm25")
