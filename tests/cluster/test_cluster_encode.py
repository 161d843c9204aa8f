"""encode --engine=ray: the rows and the header of one process, whatever is lost on the way."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from local_ray import local_cluster, nodes_of_ray, real_ray
from tiny_encoders import some_texts, write_items, write_tiny_model

from recbole_blair.cli.main import main
from recbole_blair.cluster.encode import Shards, worker_resources
from recbole_blair.errors import InputError
from recbole_blair.text.batching import plan_chunks

N_ITEMS = 240


def arguments(build, plm, *more):
    """Encode on two workers of one CPU each."""
    own = [f"--build={build}", f"--plm={plm}", "--precision=fp32", "--batch_tokens=64", "--quiet", "--device=cpu"]
    return ["encode", *own, "--engine=ray", "--cpus_per_worker=1", *more]


def assert_same_features(build, whole):
    """Rows within what another library build or thread count may change; headers equal to the word."""
    (ours,), (theirs,) = (list(folder.glob("*.feature")) for folder in (build, whole))
    rows = [np.fromfile(path, np.float32).reshape(N_ITEMS, -1) for path in (ours, theirs)]
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-5)
    headers = [json.loads((folder / f"{ours.name}.json").read_text()) for folder in (build, whole)]
    assert headers[0] == headers[1]
    assert {p.name for p in build.iterdir()} == {p.name for p in whole.iterdir()}


def chunks_done(build):
    """Chunks that the progress file counts."""
    for path in build.glob("*.partial.json"):
        try:
            return sum(last - first + 1 for first, last in json.loads(path.read_text())["done"])
        except ValueError:
            continue
    return 0


def working(node):
    """The processes of one of the cluster's nodes that encode a shard; Ray writes what they do into their title."""
    import psutil

    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    with contextlib.suppress(psutil.NoSuchProcess):
        return [p for p in raylet.children() if "EncodeWorker.encode" in " ".join(p.cmdline())]
    return []


def wait_for(condition, limit_s=300):
    """Wait until `condition()` is true."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)


@real_ray
def test_two_workers_give_the_librarys_vectors_of_a_decoder_with_modules(tmp_path):
    library = pytest.importorskip("sentence_transformers")
    from sentence_transformers.base.modules import Normalize
    from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer

    plain, texts = write_tiny_model(tmp_path / "plain", "gemma3_text"), [text or "lamp" for text in some_texts(240)]
    modules = [Transformer(str(plain)), Pooling(32, "lasttoken"), Dense(32, 16), Normalize()]
    saved = library.SentenceTransformer(modules=modules, device="cpu", prompts={"document": "small case "})
    saved.save(str(tmp_path / "whole"))
    build = write_items(tmp_path / "shop", texts)
    assert main(arguments(build, tmp_path / "whole", "--ray_cpus=2", "--shards=5")) == 0
    (path,) = build.glob("*.feature")
    found = np.fromfile(path, np.float32).reshape(240, 16)
    np.testing.assert_allclose(found, saved.encode_document(texts), atol=1e-5)


@real_ray
def test_a_real_ray_gives_the_rows_of_one_process(build, whole, tiny_bert, capfd):
    assert main(arguments(build, tiny_bert, "--ray_cpus=2", "--shards=5")) == 0
    shown = capfd.readouterr()
    assert_same_features(build, whole)
    assert "2 CPUs, 0 GPUs; 2 workers with 0 GPU, 1 CPUs each" in shown.err
    assert shown.out.strip() == str(next(build.glob("*.feature")))
    stamp = next(build.glob("*.feature")).stat().st_mtime_ns
    assert main(arguments(build, tiny_bert, "--ray_address=127.0.0.1:1")) == 0  # whole: no cluster is asked
    assert next(build.glob("*.feature")).stat().st_mtime_ns == stamp


@real_ray
def test_a_killed_driver_loses_only_the_running_shards(build, whole, tiny_bert, capfd):
    command = [sys.executable, "-m", "recbole_blair", *arguments(build, tiny_bert, "--ray_cpus=2", "--shards=400")]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True)
    wait_for(lambda: chunks_done(build) >= 3 or process.poll() is not None)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = chunks_done(build)
    assert done >= 3 and not list(build.glob("*.feature"))
    # gone on with in one process: the engines share their partial file
    local = [
        "encode",
        f"--build={build}",
        f"--plm={tiny_bert}",
        "--precision=fp32",
        "--batch_tokens=64",
        "--device=cpu",
    ]
    assert main(local) == 0
    assert "going on after" in "".join(capfd.readouterr())
    assert_same_features(build, whole)


@nodes_of_ray
def test_a_removed_node_loses_nothing(build, whole, tiny_bert, capfd):
    with local_cluster(1, 1) as (cluster, nodes):
        status = []
        more = (f"--ray_address={cluster.address}", "--shards=400")
        thread = threading.Thread(target=lambda: status.append(main(arguments(build, tiny_bert, *more))))
        thread.start()
        # the first worker is held until the other one, which loads later, is in the middle of a shard
        held = []
        for node in nodes:
            wait_for(lambda node=node: working(node) or status)
            held += working(node)
            held[-1].suspend()
        assert not status and len(held) == 2
        cluster.remove_node(nodes[1], allow_graceful=False)
        held[1].kill()
        held[0].resume()
        thread.join(timeout=300)
        assert status == [0]
    assert "2 node(s)" in (shown := capfd.readouterr().err)
    assert shown.count("a worker was lost") == 1
    assert_same_features(build, whole)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--plm=tfidf-svd",), "is fitted on the whole catalogue in one process"),
        (("--device=cuda:1",), "Ray hands out the GPUs"),
        (("--shards=0",), "--shards=0 is out of range; expected int, 1 to"),
        (("--ray_cpus=0",), "--ray_cpus=0 is out of range; expected int, 1 to"),
        (("--engine=local",), "--cpus_per_worker=1 belongs to --engine=ray"),
    ],
)
def test_wrong_use_starts_nothing(build, tiny_bert, capsys, more, message):
    assert main(arguments(build, tiny_bert, *more)) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert [p.name for p in build.iterdir()] == ["shop.item"]


def test_no_cluster_at_the_address_is_one_line(build, tiny_bert, capfd):
    assert main(arguments(build, tiny_bert, "--ray_address=127.0.0.1:1")) == 2
    error = capfd.readouterr().err
    assert "no Ray cluster answers at ray_address=127.0.0.1:1" in error and error.count("\n") == 1


def test_workers_fit_the_nodes():
    nodes = [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 6.0}]
    assert worker_resources(nodes, "auto", None, None) == ({"CPU": 1, "GPU": 1}, 2)
    assert worker_resources(nodes, "cpu", None, None) == ({"CPU": 4, "GPU": 0}, 3)
    assert worker_resources([{"CPU": 2.0}], "auto", None, None) == ({"CPU": 2, "GPU": 0}, 1)
    assert worker_resources(nodes, "cpu", 2, 3) == ({"CPU": 3, "GPU": 0}, 2)
    with pytest.raises(InputError, match=r"3 worker\(s\) with 1 CPUs and 1 GPU each do not fit: 2 do"):
        worker_resources(nodes, "cuda", 3, None)
    with pytest.raises(InputError, match="the cluster has no GPU"):
        worker_resources(nodes[1:], "cuda", None, None)


def test_shards_hold_every_open_chunk_once():
    texts = ["word " * (i % 9) for i in range(100)]
    todo = list(enumerate(plan_chunks(texts, 64, 2)))[3:]
    shards = Shards(todo, texts, 4)
    assert len(shards) == 4
    assert [number for i in range(4) for number, _ in shards.chunks(i)] == [number for number, _ in todo]
    for i in range(4):
        chunks, own = shards[i]
        assert {row for _, rows in chunks for row in rows} == set(own)
        assert all(own[row] == texts[row] for row in own)
    assert len(Shards([], texts, 0)) == 0
