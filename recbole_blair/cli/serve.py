"""`recbole-blair serve`: a trained run as an HTTP server, with a page to try it."""

from __future__ import annotations

import functools
import sys
from argparse import Namespace
from typing import TYPE_CHECKING

from recbole_blair.cli.recommend import add_run_options, open_recommender
from recbole_blair.errors import InputError, require

if TYPE_CHECKING:
    from recbole_blair.cli.options import Parser
    from recbole_blair.recommend.recommender import Recommender

# Inside the functions: what loads torch, RecBole and FastAPI.

SUMMARY = "serve a trained run over HTTP, with a page to try it and to compare it with another run"
EXAMPLE = "recbole-blair serve --checkpoint=runs/games --compare=runs/games-sasrec --port=8000"


def configure(parser: Parser) -> None:
    """Add the options."""
    add = parser.add
    add_run_options(parser)
    add("--compare", kind="path", help="a second run, served beside the first")
    add(
        "--host", default="127.0.0.1", help="address to listen on; 0.0.0.0: every one of this machine, without password"
    )
    add("--port", kind="int, >=0, <=65535", default=8000, help="port to listen on; 0: a free one")
    add("--max_body_kb", kind="int, >=1, <=1e6", default=1024, help="KiB of a request's body; larger ones are refused")
    add("--max_waiting", kind="int, >=1, <=1e6", default=1000, help="requests that may wait; more are refused")
    add("--max_batch", kind="int, >=1, <=1e4", default=64, help="requests computed together")
    add(
        "--reload_s", kind="float, >=0, <=1e6", default=10.0, help="seconds between looks for a newer run; 0: on SIGHUP"
    )


def run(args: Namespace) -> int:
    """Load the runs and serve them until SIGTERM or Ctrl-C."""
    require("serve", "fastapi", "uvicorn", "bm25s")
    from recbole_blair.runs.fetch import find_run
    from recbole_blair.serve.engine import Serving
    from recbole_blair.serve.server import ServeOptions, serve

    given = {"checkpoint": args.checkpoint, **({"compare": args.compare} if args.compare else {})}
    folders = {name: str(find_run(run)) for name, run in given.items()}
    serving = Serving(functools.partial(load_run, args), folders)
    serving.start()
    for engine in serving.engines.values():
        print(f"{engine.run}: {engine.recommender!r}", file=sys.stderr, flush=True)
    names = ("host", "port", "max_body_kb", "max_waiting", "max_batch", "reload_s")
    try:
        serve(serving, ServeOptions(**{name: getattr(args, name) for name in names}))
    except SystemExit:  # uvicorn's way to say that it cannot listen; it has named the reason
        raise InputError(f"cannot listen on {args.host}:{args.port}; choose another --port or --host") from None
    return 0


def load_run(args: Namespace, folder: str) -> Recommender:
    """Open a run as the options say, without progress bars."""
    return open_recommender(Namespace(**{**vars(args), "checkpoint": folder, "quiet": True}))
