"""Colours, overlays and contact sheets."""

import numpy as np
import pytest
from helpers import call
from PIL import Image

import color_visualization
from faceparse.data.classes import CELEBAMASK, LAPA
from faceparse.data.drawing import colorize, contact_sheet, overlay
from faceparse.data.images import write_label_map
from faceparse.data.provenance import provenance

LABEL_MAP = np.arange(18, dtype=np.uint8).reshape(3, 6)


def colour(*flags):
    call(color_visualization, "--label_dir", "labels", "--output_dir", "out", *flags)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with two label maps of 6 x 3 px in labels/ and their photographs in photos/."""
    (tmp_path / "photos").mkdir()
    for stem in ("a", "b c"):
        write_label_map(tmp_path / f"labels/{stem}.png", LABEL_MAP)
        Image.new("RGB", (6, 3), (100, 50, 0)).save(tmp_path / f"photos/{stem}.bmp")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_colorize():
    picture = colorize(np.array([[0, 1], [18, 255]], dtype=np.uint8))
    assert picture.dtype == np.uint8
    assert picture.tolist() == [[[0, 0, 0], [204, 0, 0]], [[0, 204, 0], [128, 128, 128]]]


def test_overlay_goes_from_photograph_to_colours():
    photo = np.full((3, 6, 3), 101, dtype=np.uint8)
    np.testing.assert_array_equal(overlay(photo, LABEL_MAP, 0), photo)
    np.testing.assert_array_equal(overlay(photo, LABEL_MAP, 1), colorize(LABEL_MAP))
    assert overlay(photo, LABEL_MAP, 0.25)[0, 1].tolist() == [127, 76, 76]  # 0.75 * 101 + 0.25 * (204, 0, 0)


@pytest.mark.parametrize(("count", "shape"), [(1, (5, 64)), (7, (64, 20))])
def test_contact_sheet_holds_pictures_and_every_legend_colour(count, shape):
    blank = np.full((*shape, 3), 250, dtype=np.uint8)
    sheet = contact_sheet([("a caption that is wider than its item " * 3, [blank, blank])] * count, tile=64)
    assert sheet.dtype == np.uint8 and sheet.shape[2] == 3
    colours = {tuple(colour) for colour in sheet.reshape(-1, 3).tolist()}
    assert colours >= set(CELEBAMASK.colours) and len(CELEBAMASK.colours) == len(CELEBAMASK.names)
    assert (250, 250, 250) in colours


def test_folder_of_colours_and_of_overlays(folder, capsys):
    for _ in range(2):  # its own pictures are replaced
        colour()
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["a.png", "b c.png"]
    np.testing.assert_array_equal(np.array(Image.open("out/b c.png")), colorize(LABEL_MAP))
    write_label_map(folder / "labels/other.png", LABEL_MAP)
    colour("--image_dir", "photos", "--alpha", 0.5, "--output_dir", "blend")
    assert sorted(path.name for path in (folder / "blend").iterdir()) == ["a.png", "b c.png"]
    assert Image.open("blend/a.png").getpixel((0, 0)) == (50, 25, 0)
    assert "left out 1 label map without" in capsys.readouterr().err


def test_sheet_is_written_instead(folder, capsys):
    colour("--image_dir", "photos", "--sheet", "sheet.png")
    assert not (folder / "out").exists() and Image.open("sheet.png").mode == "RGB"
    assert "written, 2 of 2 label maps" in capsys.readouterr().out


def test_bad_input_writes_nothing(folder, refusal):
    def refused(*flags):
        return refusal(lambda: colour(*flags))

    (folder / "photographs").mkdir()
    Image.new("RGB", (7, 3), "red").save("photographs/a.png")
    for flags in (("--output_dir", "photographs"), ("--sheet", "photographs/a.png")):
        assert "a.png does not say that this program made it; choose another" in refused(*flags)
    assert "holds the files to read" in refused("--output_dir", "photographs/../labels")
    assert "must be of one size" in refused("--image_dir", "photographs")
    (folder / "network").touch()
    write_label_map(folder / "labels/a.png", LABEL_MAP, made_by=provenance("network", 64, False, LAPA))
    assert "its label maps have other classes; give theirs as --classes" in refused()
