"""`grid` of a training step: the point with the best validation value is trained with all seeds."""

import pytest

from recbole_blair.steps import commands
from recbole_blair.steps.step import Places


def test_the_best_point_by_validation_is_measured(monkeypatch, tmp_path):
    """Point 2 has the best validation value and the worst test value, which must not be looked at."""
    valid = {0.1: 0.2, 0.2: 0.5, 0.3: 0.5}  # of equals the first
    ran = []

    def run_many(model, dataset, output_dir, seed, rate, **options):
        assert (model, dataset, options["save_ranks"]) == ("HSTU", "wines", True) and "grid" not in options
        ran.append((rate, seed))
        run = {"best_valid": {"ndcg@10": valid[rate]}, "test": {"mrr": rate + seed}, "n_items": 7}
        return [{**run, "output_dir": output_dir}]

    monkeypatch.setattr(commands, "run_many", run_many)
    keys = {"model": "HSTU", "dataset": "wines", "seeds": [1, 2, 3], "grid": {"rate": list(valid)}}
    result = commands.run_train(keys, Places(), tmp_path)
    assert ran == [(0.1, 1), (0.2, 1), (0.3, 1), (0.2, 2), (0.2, 3)]
    assert result["setting"] == {"rate": 0.2}
    assert result["grid"] == [{"rate": rate, "valid": value} for rate, value in valid.items()]
    assert result["metrics"] == pytest.approx({"mrr": 2.2, "items": 7}) and result["deviation"]["mrr"] == pytest.approx(
        1
    )
    assert result["runs"] == [str(tmp_path / "runs" / f"rate=0.2-seed={seed}") for seed in (1, 2, 3)]
