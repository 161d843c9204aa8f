"""The real slices give exactly the published statistics."""

from pathlib import Path

import pytest
from naive_convert import naive_convert

from dataset_tools.builds.statistics_file import load_stats, table3_line
from dataset_tools.prepare import prepare
from recbole_blair.schema import SPLITS, TEST_START_MS, VALID_START_MS

DATA = Path(__file__).resolve().parents[2] / "../shared/data/amazon_reviews_2023"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the real slices are not beside this checkout")

# after dedup, with metadata, rows, train, valid, test, items, users, #Inters, average history length
EXPECTED = {
    "Electronics": (129_868, 129_868, 114_602, 75_495, 22_676, 16_431, 9_671, 15_266, 129_868, 6.7892),
    "Appliances": (3_836, 3_403, 2_796, 1_932, 418, 446, 2_594, 607, 3_403, 3.5873),
    "All_Beauty": (3_520, 920, 519, 412, 84, 23, 649, 210, 729, 2.4644),
}


@needs_data
@pytest.mark.parametrize("raw_dir", [DATA, DATA / "raw"], ids=["above raw", "raw itself"])
@pytest.mark.parametrize("domain", EXPECTED)
def test_statistics(tmp_path, domain, raw_dir):
    stats = load_stats(prepare(domain, tmp_path, raw_dir, progress=False, threads=2))
    assert (
        stats["counts"]["after_dedup"],
        stats["counts"]["interactions"],
        stats["rows"],
        *(stats["splits"][split]["rows"] for split in SPLITS),
        stats["items"],
        stats["users"],
        stats["table3"]["inters"],
        stats["table3"]["avg_history_length"],
    ) == EXPECTED[domain]
    assert f"#Items {stats['items']:,} · #Inters {stats['table3']['inters']:,}" in table3_line(stats)


@needs_data
@pytest.mark.parametrize("domain", ["Appliances", "All_Beauty"])
def test_bytes_equal_the_plain_converters(tmp_path, domain):
    folder = prepare(domain, tmp_path, DATA, progress=False)
    plain = tmp_path / "plain"
    plain.mkdir()
    reviews, metadata = (
        DATA / "raw" / f"{kind}{domain}.jsonl.gz" for kind in ("review_categories/", "meta_categories/meta_")
    )
    naive_convert(reviews, metadata, plain, domain, VALID_START_MS, TEST_START_MS)
    assert len(list(plain.iterdir())) == 4
    for path in plain.iterdir():
        assert (folder / path.name).read_bytes() == path.read_bytes()
