"""`recbole-blair encode`: item texts of a build -> its feature file."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from recbole_blair.cli.options import add_ray_options, ray_options
from recbole_blair.errors import InputError
from recbole_blair.files.read import shown, why_no_folder
from recbole_blair.schema import DEFAULT_PLM, PROTOCOLS, TFIDF_SVD

SUMMARY = "encode a build's item texts into its feature file; goes on where it was interrupted"
EXAMPLE = (
    f"recbole-blair encode --dataset=Games --plm={DEFAULT_PLM}; over a cluster: "
    f"recbole-blair encode --dataset=Games --plm={DEFAULT_PLM} --engine=ray --ray_address=auto"
)
CLUSTER_ONLY = ("workers", "cpus_per_worker", "shards")


def configure(parser: ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--dataset", default=None, help="name of a prepared dataset: Video_Games, Games, sample …")
    parser.add_argument("--data_path", default="dataset", help="folder that holds the builds")
    parser.add_argument("--protocol", default="timestamp", choices=PROTOCOLS, help="which build of the dataset")
    parser.add_argument("--build", default=None, help="a build's folder, in place of --dataset")
    parser.add_argument("--plm", default=DEFAULT_PLM, help=f"hub id, folder, openai:NAME, or {TFIDF_SVD}")
    parser.add_argument("--pooling", default=None, choices=("cls", "mean"), help="empty: as the model says, else cls")
    parser.add_argument("--max_length", type=int, default=512, help="tokens kept of a text")
    parser.add_argument("--device", default="auto", help="auto and cuda: every GPU; cuda:N; cpu")
    parser.add_argument(
        "--precision", default="auto", choices=("auto", "fp32", "bf16"), help="auto: bf16 where the chip has it"
    )
    parser.add_argument("--revision", default=None, help="branch, tag or commit of a hub id")
    parser.add_argument("--plm_dimensions", type=int, default=None, help="width asked of openai:NAME; empty: its own")
    parser.add_argument(
        "--plm_base_url", default=None, help="server of openai:NAME; empty: OPENAI_BASE_URL, else its own"
    )
    parser.add_argument("--plm_concurrency", type=int, default=4, help="requests to openai:NAME in flight")
    parser.add_argument(
        "--plm_send_dimensions", type=parse_boolean, default=True, help="False: the server takes no such parameter"
    )
    parser.add_argument("--batch_tokens", type=int, default=None, help="tokens per batch; empty: by device")
    parser.add_argument("--cache_dir", default=None, help="where hub downloads are kept; empty: the hub's cache")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument("--force", action="store_true", help="replace a whole feature file too")
    add_ray_options(parser)
    parser.add_argument(
        "--workers", type=int, default=None, help="ray: processes; empty: one per GPU, or for some CPUs"
    )
    parser.add_argument("--cpus_per_worker", type=int, default=None, help="ray: empty: 4 at most, or 1 beside a GPU")
    parser.add_argument("--shards", type=int, default=None, help="ray: parts of the work; empty: at most 32 per worker")


def run(args: Namespace) -> int:
    """Encode, and print the path of the feature file."""
    options = {
        "device": args.device,
        "precision": args.precision,
        "revision": args.revision,
        "pooling": args.pooling,
        "max_length": args.max_length,
        "batch_tokens": args.batch_tokens,
        "cache_dir": args.cache_dir,
        "progress": not args.quiet,
        "force": args.force,
        **api_options(args),
    }
    folder, ray = _build_folder(args), ray_options(args.engine, vars(args), CLUSTER_ONLY)
    if ray is None:
        from recbole_blair.text.encode import encode_build  # heavy: loads NumPy

        path = encode_build(folder, args.plm, **options)
    else:
        # heavy: loads NumPy
        from recbole_blair.cluster.encode import encode_build_over_cluster

        parts = {"workers": args.workers, "cpus": args.cpus_per_worker, "shards": args.shards}
        path = encode_build_over_cluster(folder, args.plm, ray, **parts, **options)
    print(path)
    return 0


def api_options(args: Namespace) -> dict[str, Any]:
    """Return what an API's model is asked for; empty for any other encoder."""
    given = {"dimensions": args.plm_dimensions, "base_url": args.plm_base_url}
    if str(args.plm).startswith("openai:"):
        return {**given, "concurrency": args.plm_concurrency, "send_dimensions": args.plm_send_dimensions}
    return {key: value for key, value in given.items() if value is not None}


def parse_boolean(text: str) -> bool:
    """Read true or false."""
    values = {"true": True, "1": True, "false": False, "0": False}
    if text.lower() not in values:
        raise ValueError(text)
    return values[text.lower()]


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
