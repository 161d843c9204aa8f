"""`recbole-blair push`: a run, a text encoder or a build's text features to the Hugging Face hub."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import Namespace

    from recbole_blair.cli.options import Parser

# Inside the functions: what loads torch and RecBole (push).

SUMMARY = "push a run, a text encoder or a build's text features to the Hugging Face hub; no user data goes with it"
EXAMPLE = "recbole-blair push runs/games --repo=my-org/games-unisrec --dry_run"


def configure(parser: Parser) -> None:
    """Add the options."""
    add = parser.add
    add("source", kind="path", help="a run's folder, an encoder's folder, or a feature file of a build")
    add("--repo", required=True, help="organisation/name; made when missing")
    add("--dry_run", action="store_true", help="print the files and the card, send nothing; needs no token")
    add("--private", action="store_true", help="make a missing repository private")
    add("--revision", help="branch, made when missing; empty: main")
    add("--data_path", kind="path", help="folder that holds a run's build; empty: where the run had it")
    add("--plugin", help="file of a model of one's own; empty: where the run had it")


def run(args: Namespace) -> int:
    """Print what is sent, and send it."""
    from recbole_blair.runs import push
    from recbole_blair.runs.hub_client import check_branch, check_repo
    from recbole_blair.runs.open_run import Places

    target = push.Target(check_repo(args.repo), args.private, check_branch(args.revision))
    if not args.dry_run:
        push.check_may_send()
    places = Places(data_path=args.data_path, plugin=args.plugin, device="cpu")
    with push.packed(args.source, target.repo, places) as package:
        sizes = package.sizes()
        print(f"{args.source} -> {target.repo} ({package.repo_type} repository, {target.revision or 'main'})")
        for name, size in [*sizes.items(), ("in all", sum(sizes.values()))]:
            print(f"{size:>15,} bytes  {name}")
        if args.dry_run:
            print(f"\n{package.card}\nnothing was sent (--dry_run)")
            return 0
        url, new = push.send(package, target)
    print(url if new else f"{url}: nothing has changed since")
    return 0
