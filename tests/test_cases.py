"""Every small input that once failed has a test of its kind; `../shared/cases`, where it is here, lists them."""

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
CASES = TESTS.parents[1] / "shared" / "cases"
FUZZED = "test_fuzz_keys.py::test_values_that_once_went_wrong"
PATHS = "test_damaged_inputs.py::test_a_damaged_path_is_one_line"
YAML = "files/test_read.py::test_yaml_that_failed"
RUNS = "runs/test_damaged_runs.py"
TABLE = {  # number in the README of the cases: the tests of its kind
    1: [FUZZED],
    2: [FUZZED],
    3: [FUZZED, "files/test_read.py::test_yaml", "test_fuzz_keys.py::test_odd_yaml_files"],
    4: [FUZZED, YAML],
    5: [YAML],
    6: [YAML],
    7: [FUZZED, "test_distributed.py::test_impossible_numbers_of_processes_are_refused"],
    8: ["files/test_read.py::test_files_that_failed", PATHS],
    9: [PATHS, "files/test_output.py::test_what_cannot_be_written_is_one_line"],
    10: [FUZZED, PATHS],
    11: [FUZZED],
    12: [FUZZED],
    13: [FUZZED, "test_fuzz_keys.py::test_an_encoder_that_is_fitted_here_has_no_server"],
    14: ["data/test_binary_copy.py::test_a_damaged_copy_is_noticed_and_made_again"],
    15: [f"{RUNS}::test_damaged_weights_are_never_used"],
    16: [f"{RUNS}::test_damage_is_named_or_changes_nothing"],
    17: [f"{RUNS}::test_report_says_what_a_run_lacks_on_the_page_and_beside_it"],
    18: ["files/test_write.py::test_a_full_disk_is_named_whatever_the_library_says"],
    19: ["plugins/test_tutorial.py::test_new_model_goes_on_where_a_full_disk_stopped_it"],
    20: [f"{RUNS}::test_the_next_command_removes_what_a_killed_one_left"],
    21: ["train/test_interrupted.py::test_the_same_command_goes_on"],
    22: ["dataset_tools/test_own_data.py::test_files_of_other_content_are_refused_under_one_name"],
    23: ["dataset_tools/test_own_data.py::test_ids_that_never_meet_are_shown_with_the_likely_cause"],
    24: ["text/test_families.py::test_heads"],
    25: ["text/test_families.py::test_poolings"],
    26: ["text/test_encode.py::test_hub_ids_with_one_last_part_have_files_of_their_own"],
    27: ["train/test_nan_scores.py::test_a_score_that_is_nan_stops_the_evaluation"],
    28: ["test_extras.py::test_each_missing_package_is_named_before_any_work"],
}


@pytest.mark.parametrize("number", TABLE)
def test_a_case_has_its_test(number):
    for name in TABLE[number]:
        file, _, function = name.partition("::")
        tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
        assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, name


@pytest.mark.skipif(not CASES.is_dir(), reason=f"no {CASES}")
def test_no_case_is_missing():
    readme = (CASES / "README.md").read_text(encoding="utf-8")
    assert {int(number) for number in re.findall(r"^\| (\d+) \|", readme, re.MULTILINE)} == set(TABLE)
    sources = "".join(path.read_text(encoding="utf-8") for path in TESTS.rglob("test_*.py") if path != Path(__file__))
    assert not [path.name for path in (CASES / "files").iterdir() if f'"{path.name}"' not in sources]
