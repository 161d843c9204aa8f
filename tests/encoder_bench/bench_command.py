"""The command with the smoke suite's parts that tests run."""

from recbole_blair.cli.main import main

PARTS = ["--suite=smoke", "--tasks=sequential,search-short", "--device=cpu", "--threads=1", "--samples=500", "--quiet"]


def run_bench(folder, *options):
    """Run a bench in a folder by the command; returns its exit status."""
    places = [f"--output_dir={folder / 'out'}", f"--data_path={folder / 'data'}", f"--raw_dir={folder / 'raw'}"]
    return main(["bench", *PARTS, *places, *options])
