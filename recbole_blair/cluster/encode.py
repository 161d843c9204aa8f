"""Encode a build's texts over a Ray cluster: the driver cuts shards and writes, workers with one model each encode.

A shard is a few neighbouring chunks of the encoder's plan (text/batching.py), so the batches, and with the same device
and threads the bytes, are those of one process; a cluster can resume a run of one machine and one machine that of a
cluster. Texts are sent to the workers and rows are sent back: no storage need be shared, but an encoder that is a
folder must exist on every node.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Container, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_blair.cluster.pool import WorkerPool
from recbole_blair.errors import InputError
from recbole_blair.parallel.ray_cluster import RayOptions, node_resources, places
from recbole_blair.schema import VERSION
from recbole_blair.text.batching import plan_chunks
from recbole_blair.text.encode import encode_build
from recbole_blair.text.encoders import load_encoder, resolve_plm
from recbole_blair.train.display import say

if TYPE_CHECKING:
    import numpy as np

CPUS_PER_WORKER = 4  # without GPUs: more workers hold more copies of the model, fewer leave cores idle between batches
SHARDS_PER_WORKER = 32  # at most: a lost worker costs 1/32 of its work
OBJECT_STORE_MB = 1024  # of a cluster started here: finished shards wait in it; what is more spills to disk
DEVICES = ("auto", "cpu", "cuda")
Chunk = tuple[int, "np.ndarray"]  # its number and the rows in it


def encode_build_over_cluster(
    build_dir: Path,
    plm: str,
    ray_options: RayOptions,
    *,
    workers: int | None = None,
    cpus: int | None = None,
    shards: int | None = None,
    **options: Any,
) -> Path:
    """Encode as `text.encode.encode_build` does, with workers of a Ray cluster.

    Args:
        build_dir, plm, **options: of `encode_build`. `device=auto` takes GPUs where the cluster has them.
        ray_options: which cluster.
        workers: processes, one model each; None: one per GPU, or, without GPUs, one per `cpus` CPUs.
        cpus: CPUs of a worker; None: 4, or a node's if it has fewer; 1 beside a GPU.
        shards: parts that the open work is cut into; None: 32 per worker, or one per chunk if that is fewer.

    Returns:
        the feature file.

    Raises:
        InputError: as `encode_build`; no cluster at the address, more workers than fit, an encoder that one process
            makes, workers that differ in their weights or versions.
    """
    check_options(plm, options, {"--workers": workers, "--cpus_per_worker": cpus, "--shards": shards})
    with contextlib.ExitStack() as stack:

        def load(name: str, **wanted: Any) -> ClusterEncoder:
            cluster = stack.enter_context(ray_options.open(object_store_mb=OBJECT_STORE_MB))
            each, size = worker_resources(node_resources(), wanted["device"], workers, cpus)
            say(f"{cluster.describe()}; {size} workers with {each['GPU']:g} GPU, {each['CPU']:g} CPUs each")
            return stack.enter_context(ClusterEncoder(name, wanted, each, size, shards))

        return encode_build(build_dir, plm, load=load, **options)


def check_options(plm: str, options: Mapping[str, Any], numbers: Mapping[str, int | None]) -> None:
    """Refuse what no cluster could do, before anything starts."""
    for flag, value in numbers.items():
        if value is not None and value < 1:
            raise InputError(f"{flag}={value} must be at least 1")
    kind = resolve_plm(plm)[0]
    if kind not in ("hub", "folder"):
        reasons = {"openai": "asks a server", "vectors": "is read from a file"}
        why = reasons.get(kind, "is fitted on the whole catalogue in one process")
        raise InputError(f"--plm={plm} {why}, so --engine=ray does not spread it; leave --engine out")
    device = options.get("device", "auto")
    if device not in DEVICES:
        raise InputError(f"--device={device}: Ray hands out the GPUs; give one of {', '.join(DEVICES)}")


def worker_resources(
    nodes: Sequence[dict[str, float]], device: str, workers: int | None, cpus: int | None
) -> tuple[dict[str, int], int]:
    """Return what a worker takes, {"CPU", "GPU"}, and how many there will be.

    Raises:
        InputError: more than there is.
    """
    gpus = sum(node.get("GPU", 0) for node in nodes)
    if device == "cuda" and not gpus:
        raise InputError("--device=cuda, but the cluster has no GPU; use --device=auto or cpu")
    gpu = 1 if gpus and device != "cpu" else 0
    most = int(max((node.get("CPU", 0) for node in nodes), default=0))
    each = {"CPU": cpus or (1 if gpu else max(1, min(CPUS_PER_WORKER, most))), "GPU": gpu}
    fit = places(nodes, **each)
    if not fit or (workers or 0) > fit:
        total = sum(node.get("CPU", 0) for node in nodes)
        raise InputError(
            f"{workers or 1} worker(s) with {each['CPU']} CPUs and {gpu} GPU each do not fit: {fit} do ({len(nodes)} "
            f"node(s), {total:g} CPUs, {gpus:g} GPUs); lower --workers or --cpus_per_worker"
        )
    return each, workers or fit


class ClusterEncoder:
    """An encoder for `encode_build` whose work is done by workers. Its context starts and ends them.

    Args:
        plm: hub id or folder.
        options: of `load_encoder`.
        each: CPU and GPU of a worker.
        size: workers.
        shards: see `encode_build_over_cluster`.
    """

    def __init__(self, plm: str, options: dict[str, Any], each: dict[str, int], size: int, shards: int | None) -> None:
        kind, value = resolve_plm(plm)
        self.plm = str(value) if kind == "folder" else plm
        self.options = {**options, "device": "cuda" if each["GPU"] else "cpu"}
        self.each, self.size, self.shards = each, size, shards
        self.about: dict[str, Any] = {}  # what the first worker returned
        self.budget = 0  # tokens per batch
        self.pool = WorkerPool(self._start, self._joined, size, self._call)

    def __enter__(self) -> ClusterEncoder:
        self.pool.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.pool.__exit__(*error)

    def __getattr__(self, name: str) -> Any:
        """`name`, `width`, `batch_tokens`, `device_type`, `libraries`: as the workers say."""
        about = self.__dict__.get("about", {})
        if name not in about:
            raise AttributeError(name)
        return about[name]

    def description(self) -> dict[str, Any]:
        """Header fields; see `TransformerEncoder.description`."""
        return dict(self.about["description"])

    def plan(self, texts: Sequence[str], batch_tokens: int | None = None) -> list[np.ndarray]:
        """Return the chunks that one process would make; see `TransformerEncoder.plan`."""
        return plan_chunks(texts, self.about["description"]["max_length"], batch_tokens or self.about["batch_tokens"])

    def encode_chunks(
        self, texts: Sequence[str], *, batch_tokens: int | None = None, done: Container[int] = ()
    ) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yield (chunk number, its rows, their vectors); see `TransformerEncoder.encode_chunks`."""
        self.budget = batch_tokens or self.about["batch_tokens"]
        todo = [(number, rows) for number, rows in enumerate(self.plan(texts, self.budget)) if number not in done]
        shards = Shards(todo, texts, min(len(todo), self.shards or SHARDS_PER_WORKER * self.size))
        for shard, vectors in self.pool.work(shards):
            for (number, rows), rows_vectors in zip(shards.chunks(shard), vectors):
                yield number, rows, rows_vectors

    def _start(self) -> tuple[Any, Any]:
        """Start a worker; the first decides what the others must agree with, `auto` included."""
        import ray  # heavy

        options = dict(self.options)
        if self.about:
            options["precision"] = self.about["description"]["precision"]
        actor: Any = ray.remote(EncodeWorker).options(num_cpus=self.each["CPU"], num_gpus=self.each["GPU"]).remote()
        return actor, actor.load.remote(self.plm, options, int(self.each["CPU"]))

    def _joined(self, about: dict[str, Any]) -> None:
        """Check a worker that has loaded against the first.

        Raises:
            InputError: names the node and what differs.
        """
        node, tool = about.pop("node"), about["tool"]
        if tool != VERSION:
            raise InputError(f"node {node} has recbole_blair {tool}, this machine {VERSION}; install one version")
        first = self.about or about
        for key in ("description", "libraries", "batch_tokens"):
            if about[key] != first[key]:
                raise InputError(
                    f"node {node} would encode differently: its {key} is {about[key]}, the first worker's "
                    f"{first[key]}; give all nodes the same encoder and packages"
                )
        self.about = first

    def _call(self, actor: Any, shard: tuple) -> Any:
        todo, texts = shard
        return actor.encode.remote(todo, texts, self.budget)


class Shards:
    """Runs of neighbouring chunks; a shard's texts are collected when it is read."""

    def __init__(self, todo: list[Chunk], texts: Sequence[str], n: int) -> None:
        self.todo, self.texts = todo, texts
        self.cuts = [len(todo) * i // n for i in range(n + 1)] if n else [0]

    def __len__(self) -> int:
        return len(self.cuts) - 1

    def chunks(self, number: int) -> list[Chunk]:
        """Return [(chunk number, rows)]."""
        return self.todo[self.cuts[number] : self.cuts[number + 1]]

    def __getitem__(self, number: int) -> tuple[list[Chunk], dict[int, str]]:
        """Return the chunks, and the texts of their rows as {row: text}."""
        chunks = self.chunks(number)
        return chunks, {row: self.texts[row] for _, rows in chunks for row in rows.tolist()}


class EncodeWorker:
    """One encoder in a process of its own, on one GPU or on some CPUs."""

    def load(self, plm: str, options: dict[str, Any], threads: int) -> dict[str, Any]:
        """Load the encoder.

        Returns:
            dict: what the driver reads of it.

        Raises:
            InputError: it cannot be loaded on this node.
        """
        import torch  # heavy

        node = socket.gethostname()
        if options["device"] == "cpu":
            torch.set_num_threads(threads)
        try:
            self.encoder: Any = load_encoder(plm, **options)  # of texts alone, so with `encode_planned`
        except InputError as error:
            where = " (a folder must be there on every node)" if os.path.isabs(plm) else ""
            raise InputError(f"on node {node}{where}: {error}") from None
        return {
            "node": node,
            "tool": VERSION,
            "description": self.encoder.description(),
            "name": self.encoder.name,
            "width": self.encoder.width,
            "batch_tokens": self.encoder.batch_tokens,
            "device_type": self.encoder.device_type,
            "libraries": {name: version(name) for name in self.encoder.libraries},
        }

    def encode(self, todo: list[Chunk], texts: dict[int, str], budget: int) -> list[np.ndarray]:
        """Encode the chunks of a shard.

        Args:
            todo: chunk numbers and their rows.
            texts: row -> text.
            budget: tokens per batch.

        Returns:
            (rows, width) float32 per chunk, in the order given.
        """
        vectors = {number: rows for number, _, rows in self.encoder.encode_planned(texts, todo, budget)}
        return [vectors[number] for number, _ in todo]
