"""`recbole-blair new-model`: the two files of a recommender of one's own, and a test that passes."""

SUMMARY = "write a recommender of your own: two files that train as they are, and a passing test"
EXAMPLE = "recbole-blair new-model MyRec --dir=my_models"


def configure(parser):
    """Add the options."""
    parser.add_argument("name", help="name of the model and its class, as MyRec")
    parser.add_argument(
        "--dir", default=None, help="folder for the files; empty: recbole_blair/plugins and props/model when run in a "
        "checkout of this project, else the current folder",
    )  # fmt: skip


def run(args):
    """Write the files and print what to do with them."""
    from recbole_blair.registry.new_model import write_model

    for line in write_model(args.name, args.dir):
        print(line)
    return 0
