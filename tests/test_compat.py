"""Each work-around: what breaks without it, that it repairs it, and that it touches nothing else."""

import importlib.util
import pickle
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from recbole_blair import compat
from recbole_blair.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
NAMES = [workaround.name for workaround in compat.WORKAROUNDS]


def run_python(code, cwd, *flags):
    """Run code in a fresh interpreter that finds the package; return its output."""
    done = subprocess.run(
        [sys.executable, *flags, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"],
        cwd=cwd,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def applied():
    return compat.apply()


def recbole_sources():
    return Path(importlib.util.find_spec("recbole").origin).parent


def test_apply_again_changes_nothing_and_names_follow_the_table(applied):
    assert compat.apply() == applied
    assert applied == [name for name in NAMES if name in applied]
    assert not any(workaround.needed() for workaround in compat.WORKAROUNDS)


def test_every_workaround_names_its_cause():
    assert len(set(NAMES)) == len(NAMES)
    assert all(len(workaround.cause) > 40 for workaround in compat.WORKAROUNDS)


def test_import_is_light_and_apply_loads_no_ray_no_transformers_and_leaves_the_folder_alone(tmp_path):
    code = (
        "from recbole_blair import compat\n"
        "heavy = [m for m in ('numpy', 'torch', 'pandas', 'recbole') if m in sys.modules]\n"
        "assert not heavy, heavy\n"
        "argv = ['caller', '--model=Nonsense']; sys.argv = list(argv)\n"
        "import os; before = dict(os.environ)\n"
        "compat.apply()\n"
        "assert sys.argv == argv and dict(os.environ) == before\n"
        "heavy = [m for m in ('ray', 'transformers', 'recbole.quick_start') if m in sys.modules]\n"
        "assert not heavy, heavy\n"
    )
    run_python(code, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_all_sequential_models_import_without_a_warning(tmp_path):
    code = (
        "sys.dont_write_bytecode = True; sys.pycache_prefix = 'none'\n"  # compile afresh: warnings come then
        "from recbole_blair import compat; compat.apply()\n"
        "from recbole.model.sequential_recommender import *\n"
        "print(SASRec.__name__, GRU4Rec.__name__, NARM.__name__, BERT4Rec.__name__, DIEN.__name__)\n"
    )
    assert run_python(code, tmp_path).split() == ["SASRec", "GRU4Rec", "NARM", "BERT4Rec", "DIEN"]


def test_numpy_aliases_are_needed_by_recbole_as_it_is(tmp_path):
    import numpy as np

    code = (
        "import numpy as np\n"
        "from recbole.config import Config\n"
        "try: Config.compatibility_settings(None); print('works')\n"
        "except AttributeError as error: print(error)\n"
    )
    out = run_python(code, tmp_path)
    assert ("np.float_" in out) == (int(np.__version__.split(".")[0]) >= 2)


def test_numpy_aliases_cover_what_recbole_asks_for(applied):
    import numpy as np
    import torch
    from recbole.config import Config
    from recbole.data.interaction import Interaction

    asked = set()
    for path in recbole_sources().rglob("*.py"):
        asked |= set(re.findall(r"\bnp\.([A-Za-z_]\w*)", path.read_text(encoding="utf-8")))
    assert asked >= {"float", "float_", "unicode_"}  # the search itself works
    assert [name for name in sorted(asked) if not hasattr(np, name)] == []
    Config.compatibility_settings(None)
    assert vars(np)["float"] is np.float64
    scores = Interaction({"rating": np.array([0.5, 1.0])})["rating"]
    assert scores.dtype == torch.float32 and scores.tolist() == [0.5, 1.0]


def test_numpy_aliases_leave_existing_names_alone(tmp_path):
    code = (
        "import numpy as np\n"
        "before = {k: v for k, v in vars(np).items()}\n"
        "from recbole_blair import compat\n"
        "compat._apply_numpy_aliases()\n"
        "assert all(vars(np)[k] is v for k, v in before.items())\n"
        "assert set(vars(np)) - set(before) <= set(compat.NUMPY_ALIASES)\n"
        "assert not compat._missing_numpy_aliases()\n"
    )
    run_python(code, tmp_path)


def test_dok_update_stores_the_entries(applied):
    from scipy.sparse import dok_matrix

    matrix = dok_matrix((2, 3), dtype="float32")
    matrix._update({(0, 1): 2.0, (1, 2): 3.0})
    assert matrix.nnz == 2
    assert matrix.toarray().tolist() == [[0, 2, 0], [0, 0, 3]]
    assert matrix.tocsr()[1, 2] == 3


def test_noise_is_silenced_only_from_recbole(applied):
    def told(message, category, module):
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            compat._apply_noise_filters()
            warnings.warn_explicit(message, category, "file.py", 1, module=module)
        return len(heard)

    chained = "A value is trying to be set on a copy of a DataFrame or Series through chained assignment"
    assert told(chained, FutureWarning, "recbole.data.dataset.dataset") == 0
    assert told(chained, FutureWarning, "shop.tables") == 1
    assert told("something else", FutureWarning, "recbole.data.dataset.dataset") == 1
    scaler = "`torch.cuda.amp.GradScaler(args...)` is deprecated."
    assert told(scaler, FutureWarning, "recbole.trainer.trainer") == 0
    assert told(scaler, FutureWarning, "shop.trainer") == 1
    escape = "invalid escape sequence '\\p'"
    assert told(escape, SyntaxWarning, "lib/recbole/model/sequential_recommender/dien") == 0
    assert told(escape, SyntaxWarning, "lib/shop/model") == 1


def test_yaml_stays_as_it_was_and_recbole_reads_exponents(applied, tmp_path):
    import yaml
    from recbole.config import Config

    before = {first: list(rules) for first, rules in yaml.FullLoader.yaml_implicit_resolvers.items()}
    loader = Config._build_yaml_loader(None)
    assert loader is Config._build_yaml_loader(None)
    assert before == yaml.FullLoader.yaml_implicit_resolvers
    assert yaml.load("1e-3", Loader=yaml.FullLoader) == "1e-3"
    text = "[1e-3, -2E+4, 1.5e3, .5e1, 0.1, 7, 1e, 12ab, e3, true]"
    expected = [0.001, -20000.0, 1500.0, 5.0, 0.1, 7, "1e", "12ab", "e3", True]
    assert yaml.load(text, Loader=loader) == expected
    assert pickle.loads(pickle.dumps(loader)) is loader  # a Config that holds it can go to a worker process


class Probe:
    """What RecBole's Trainer touches while it saves and loads a checkpoint."""

    def __init__(self, folder):
        import torch
        from recbole.utils import EvaluatorType

        class Model(torch.nn.Linear):
            def other_parameter(self):
                return {"tail": self.tail, "step": 3}

        self.model = Model(2, 1)
        self.model.tail = torch.nn.Linear(1, 1)
        self.optimizer = torch.optim.Adam(self.model.parameters())
        self.model(torch.ones(1, 2)).sum().backward()
        self.optimizer.step()
        self.config = {"single_spec": True, "model": "SASRec", "eval_type": EvaluatorType.RANKING, "lr": 0.1}
        self.saved_model_file = str(folder / "model.pth")
        self.cur_step, self.best_valid_score = 2, 0.25


def test_recbole_checkpoints_load_without_unpickling(applied, tmp_path):
    import numpy as np
    import torch
    from recbole.trainer import Trainer

    probe = Probe(tmp_path)
    probe.best_valid_score = np.float64(0.25)
    Trainer._save_checkpoint(probe, 4, verbose=False)
    state = torch.load(probe.saved_model_file, weights_only=True)
    assert state["config"] == {"single_spec": True, "model": "SASRec", "lr": 0.1}
    assert (state["epoch"], state["cur_step"], state["best_valid_score"]) == (4, 2, 0.25)
    assert state["other_parameter"] == {"step": 3}
    for name, tensor in probe.model.state_dict().items():
        assert torch.equal(state["state_dict"][name], tensor)
    probe.optimizer.load_state_dict(state["optimizer"])
    assert "tail.weight" in state["state_dict"]


def test_only_the_first_process_saves(applied, tmp_path):
    from recbole.trainer import Trainer

    probe = Probe(tmp_path)
    probe.config |= {"single_spec": False, "local_rank": 1}
    Trainer._save_checkpoint(probe, 4, verbose=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "version", "message"),
    [
        ("recbole", "1.1.1", r"RecBole 1\.1\.1 is installed; expected 1\.2\.1; run: pip install --no-deps recbole"),
        ("torch", "2.5.1+cu121", r"torch 2\.5\.1\+cu121 is installed; expected 2\.6 or later; run: pip install"),
        ("torch", None, r"torch is not installed; run: pip install 'torch>=2\.6'"),
        ("pandas", "3.0.1", r"pandas 3\.0\.1 is installed; expected a version below 3.*pip install 'pandas<3'"),
        ("pandas", None, r"pandas is not installed; run: pip install 'pandas>=2\.2,<3'"),
    ],
)
def test_wrong_versions_are_refused_with_the_fix(monkeypatch, name, version, message):
    good = {"recbole": compat.RECBOLE_VERSION, "torch": "2.13.0", "pandas": "2.3.3"}
    monkeypatch.setattr(compat, "installed_version", lambda asked: {**good, name: version}[asked])
    with pytest.raises(InputError, match=message):
        compat.require_recbole()
    assert len(compat.find_problems()) == 1


def test_a_missing_recbole_names_the_command(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n == "recbole" else find_spec(n, *a))
    with pytest.raises(InputError, match=r"run: pip install --no-deps recbole==1\.2\.1"):
        compat.apply()


@pytest.mark.parametrize(
    ("version", "expected"), [("2.13.0+cpu", (2, 13, 0)), ("3.0rc1", (3, 0)), ("2.10", (2, 10)), ("dev", ())]
)
def test_version_tuple(version, expected):
    assert compat.version_tuple(version) == expected
