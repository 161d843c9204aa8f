"""`recbole-blair encode`: item texts of a build -> its feature file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from recbole_blair.cli.options import (
    PRECISION_KIND,
    add_encoder_options,
    add_ray_options,
    encoder_options,
    ray_options,
    refuse_unused,
)
from recbole_blair.errors import InputError
from recbole_blair.files.read import shown, why_no_folder
from recbole_blair.ops import use_ops
from recbole_blair.schema import DEFAULT_PLM, PROTOCOLS, TFIDF_SVD

if TYPE_CHECKING:
    from argparse import Namespace

    from recbole_blair.cli.options import Parser

SUMMARY = "encode a build's item texts into its feature file; goes on where it was interrupted"
EXAMPLE = (
    f"recbole-blair encode --dataset=Games --plm={DEFAULT_PLM}; over a cluster: "
    f"recbole-blair encode --dataset=Games --plm={DEFAULT_PLM} --engine=ray --ray_address=auto"
)
CLUSTER_ONLY = ("workers", "cpus_per_worker", "shards")


def configure(parser: Parser) -> None:
    """Add the options."""
    add = parser.add
    add("--dataset", kind="name", help="name of a prepared dataset: Video_Games, Games, sample …")
    add("--data_path", kind="path", default="dataset", help="folder that holds the builds")
    add("--protocol", key="protocol", default="timestamp", help="which build of the dataset")
    add("--build", kind="path", help="a build's folder, in place of --dataset")
    add("--plm", key="plm", default=DEFAULT_PLM, help=f"hub id, folder, openai:NAME, vectors:FILE, or {TFIDF_SVD}")
    add_encoder_options(parser)
    add("--text_fields", key="text_fields", help="columns of the .item file, as in title,store; empty: text")
    add(
        "--text_recipe",
        key="text_recipe",
        default="own",
        help="released: as the papers' code makes texts, from raw files",
    )
    add("--raw_dir", kind="path", default="raw", help="raw files for --text_recipe=released")
    add("--device", key="device", default="auto", help="auto and cuda: every GPU; cuda:N; cpu")
    add("--precision", kind=PRECISION_KIND, default="auto", help="auto: bf16 where the chip has it; fp16: GPUs alone")
    add("--ops", key="ops", help="fast or plain; empty: fast")
    add("--batch_tokens", kind="int, >=1, <=1e9", help="tokens per batch; empty: by device")
    add("--cache_dir", kind="path", help="where hub downloads are kept; empty: the hub's cache")
    add("--quiet", action="store_true", help="no progress bar")
    add("--force", action="store_true", help="replace a whole feature file too")
    add_ray_options(parser)
    add("--workers", kind="int, >=1, <=4096", help="ray: processes; empty: one per GPU, or for some CPUs")
    add("--cpus_per_worker", kind="int, >=1, <=4096", help="ray: empty: 4 at most, or 1 beside a GPU")
    add("--shards", kind="int, >=1, <=1e6", help="ray: parts of the work; empty: at most 32 per worker")


def run(args: Namespace) -> int:
    """Encode, and print the path of the feature file."""
    asked, ray = encoder_options(args), ray_options(args.engine, vars(args), CLUSTER_ONLY)
    if ray is None:
        from recbole_blair.text.encoders import check_for_encoding  # heavy: loads NumPy

        check_for_encoding(args.plm, asked, args.batch_tokens)
    options = {"batch_tokens": args.batch_tokens, "progress": not args.quiet, "force": args.force, **asked}
    folder = _build_folder(args)
    if args.text_recipe != "own":
        from dataset_tools.builds.released_texts import read_released_texts  # heavy: loads DuckDB

        options["read_released"] = lambda ids: read_released_texts(
            folder, args.raw_dir, ids, args.text_fields, not args.quiet
        )
    refuse_unused(args, ("ops",), ray is None, "--engine=local")
    if ray is None:
        from recbole_blair.text.encode import encode_build  # as above

        with use_ops(args.ops or "fast"):
            path = encode_build(folder, args.plm, **options)
    else:
        from recbole_blair.cluster.encode import encode_build_over_cluster

        parts = {"workers": args.workers, "cpus": args.cpus_per_worker, "shards": args.shards}
        path = encode_build_over_cluster(folder, args.plm, ray, **parts, **options)
    print(path)
    return 0


def _build_folder(args: Namespace) -> Path:
    """Return the build's folder, from --build or from --data_path, --dataset and --protocol."""
    from dataset_tools.prepare import build_name  # heavy: loads DuckDB

    if (args.build is None) == (args.dataset is None):
        raise InputError("give either --dataset=NAME or --build=FOLDER; example: " + EXAMPLE)
    folder = Path(args.build or Path(args.data_path) / args.dataset)
    if args.dataset and not (why_no_folder(folder) is None and args.protocol == PROTOCOLS[0]):
        folder = Path(args.data_path) / build_name(args.dataset, protocol=args.protocol)
    reason = why_no_folder(folder)
    if reason:
        name = shown(args.dataset or folder.name)
        raise InputError(
            f"{shown(folder)} is missing ({reason}); make it first: recbole-blair prepare --dataset={name}"
        )
    return folder
