"""Counts and the bar chart of class shares."""

import numpy as np
import pytest

import class_imbalance_fig
from class_imbalance_fig import class_pixels, format_counts
from faceparse.data.images import write_label_map
from faceparse.errors import InputError
from options import class_imbalance_parser


def draw(*flags):
    class_imbalance_fig.main(class_imbalance_parser("Draw.").parse_args([str(flag) for flag in flags]))


@pytest.fixture
def masks(tmp_path):
    """6 pixels of hair, 3 of skin and one of cloth in two masks; one is ignored; all other classes are absent."""
    write_label_map(tmp_path / "masks/a.png", np.array([[13, 13, 13, 1, 18]], dtype=np.uint8))
    write_label_map(tmp_path / "masks/b.png", np.array([[13, 13, 13], [1, 1, 255]], dtype=np.uint8))
    return tmp_path / "masks"


def test_class_pixels():
    counts = class_pixels(np.array([[0, 18, 255], [18, 3, 255]], dtype=np.uint8), 19)
    assert counts.shape == (19,) and counts.sum() == 4
    assert (counts[0], counts[3], counts[18]) == (1, 1, 2)


def test_format_counts_largest_first():
    rows = [line.split() for line in format_counts(np.array([[5, 0, 0], [0, 15, 0]])).splitlines()]
    assert rows[1:] == [
        ["1", "skin", "15", "75.000%", "1"],
        ["0", "background", "5", "25.000%", "1"],
        ["2", "nose", "0", "0.000%", "0"],
    ]


@pytest.mark.parametrize("log", [[], ["--log"]])
def test_chart_and_table(masks, tmp_path, capsys, log):
    draw("--label_dir", masks, "--output_dir", tmp_path / "out", *log)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "proportions_given_data.pdf",
        "proportions_given_data.png",
    ]
    assert (tmp_path / "out/proportions_given_data.pdf").read_bytes().startswith(b"%PDF")
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert table[1:4] == [
        ["13", "hair", "6", "60.000%", "2"],
        ["1", "skin", "3", "30.000%", "2"],
        ["18", "cloth", "1", "10.000%", "1"],
    ]


def test_nothing_to_count(tmp_path):
    write_label_map(tmp_path / "masks/a.png", np.full((2, 2), 255, dtype=np.uint8))
    with pytest.raises(InputError, match="nothing to count"):
        draw("--label_dir", tmp_path / "masks", "--output_dir", tmp_path / "out")
    assert not (tmp_path / "out").exists()
