"""Counts and the bar chart of class shares."""

import numpy as np
import pytest
from helpers import call

import class_imbalance_fig
from faceparse.data.images import write_label_map


@pytest.mark.parametrize("log", [[], ["--log"]])
def test_chart_and_table(tmp_path, capsys, log):
    """6 pixels of hair, 3 of skin and one of cloth in two masks; one is ignored; all other classes are absent."""
    write_label_map(tmp_path / "masks/a.png", np.array([[13, 13, 13, 1, 18]], dtype=np.uint8))
    write_label_map(tmp_path / "masks/b.png", np.array([[13, 13, 13], [1, 1, 255]], dtype=np.uint8))
    call(class_imbalance_fig, "--label_dir", tmp_path / "masks", "--output_dir", tmp_path / "out", *log)
    names = ["proportions_given_data.pdf", "proportions_given_data.png"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    assert (tmp_path / "out/proportions_given_data.pdf").read_bytes().startswith(b"%PDF")
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert table[1:4] == [
        ["13", "hair", "6", "60.000%", "2"],
        ["1", "skin", "3", "30.000%", "2"],
        ["18", "cloth", "1", "10.000%", "1"],
    ]
    assert table[4] == ["0", "background", "0", "0.000%", "0"]
