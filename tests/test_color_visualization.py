"""Colours, overlays and contact sheets."""

import numpy as np
import pytest
from PIL import Image

import color_visualization
from faceparse.data.classes import CELEBAMASK, LAPA
from faceparse.data.drawing import colorize, contact_sheet, overlay
from faceparse.data.images import write_label_map
from faceparse.data.provenance import provenance
from faceparse.errors import InputError
from options import color_parser

LABEL_MAP = np.arange(18, dtype=np.uint8).reshape(3, 6)


def colour(*flags):
    color_visualization.main(color_parser("Colour.").parse_args([str(flag) for flag in flags]))


@pytest.fixture
def folders(tmp_path):
    """Two label maps of 6 x 3 px with photographs."""
    (tmp_path / "photos").mkdir()
    for stem in ("a", "b c"):
        write_label_map(tmp_path / f"labels/{stem}.png", LABEL_MAP)
        Image.new("RGB", (6, 3), (100, 50, 0)).save(tmp_path / f"photos/{stem}.bmp")
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


@pytest.mark.parametrize("count", [1, 7])
@pytest.mark.parametrize("shape", [(40, 40), (64, 20), (5, 64)])
def test_contact_sheet_holds_pictures_and_every_legend_colour(count, shape):
    blank = np.full((*shape, 3), 250, dtype=np.uint8)
    sheet = contact_sheet([("a caption that is wider than its item " * 3, [blank, blank])] * count, tile=64)
    assert sheet.dtype == np.uint8 and sheet.shape[2] == 3
    colours = {tuple(colour) for colour in sheet.reshape(-1, 3).tolist()}
    assert colours >= set(CELEBAMASK.colours) and len(CELEBAMASK.colours) == len(CELEBAMASK.names)
    assert (250, 250, 250) in colours


def test_folder_of_colours_and_of_overlays(folders):
    colour("--label_dir", folders / "labels", "--output_dir", folders / "out")
    assert sorted(path.name for path in (folders / "out").iterdir()) == ["a.png", "b c.png"]
    with Image.open(folders / "out/b c.png") as image:
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.array(image), colorize(LABEL_MAP))
    flags = ["--label_dir", folders / "labels", "--image_dir", folders / "photos", "--alpha", 0.5]
    colour(*flags, "--output_dir", folders / "blend")
    with Image.open(folders / "blend/a.png") as image:
        assert image.getpixel((0, 0)) == (50, 25, 0)


def test_label_maps_of_other_classes_are_not_drawn(folders):
    (folders / "network").touch()
    write_label_map(folders / "labels/a.png", LABEL_MAP, made_by=provenance(folders / "network", 64, False, LAPA))
    with pytest.raises(InputError, match="its label maps have other classes; give theirs as --classes"):
        colour("--label_dir", folders / "labels", "--output_dir", folders / "out")
    assert not (folders / "out").exists()


def test_sheet_is_written_instead(folders, capsys):
    flags = ["--label_dir", folders / "labels", "--image_dir", folders / "photos", "--output_dir", folders / "out"]
    colour(*flags, "--sheet", folders / "sheet.png")
    assert not (folders / "out").exists() and Image.open(folders / "sheet.png").mode == "RGB"
    assert "written, 2 of 2 label maps" in capsys.readouterr().out


def test_label_maps_of_other_photographs_are_left_out(folders, capsys):
    Image.fromarray(LABEL_MAP).save(folders / "labels/other.png")
    flags = ["--label_dir", folders / "labels", "--image_dir", folders / "photos", "--output_dir", folders / "out"]
    colour(*flags)
    assert sorted(path.name for path in (folders / "out").iterdir()) == ["a.png", "b c.png"]
    assert "left out 1 label map without" in capsys.readouterr().err


def test_photographs_are_not_replaced(folders):
    flags = ["--label_dir", folders / "labels", "--output_dir", folders / "out"]
    colour(*flags)
    colour(*flags)  # replaces its own pictures
    name = sorted((folders / "out").iterdir())[0].name
    photograph = folders / "photographs" / name
    photograph.parent.mkdir()
    Image.new("RGB", (7, 3), "red").save(photograph)
    before = photograph.read_bytes()
    with pytest.raises(InputError, match=f"{name} does not say that this program made it; choose another"):
        colour("--label_dir", folders / "labels", "--output_dir", photograph.parent)
    assert photograph.read_bytes() == before


def test_bad_input(folders):
    labels, photos, out = folders / "labels", folders / "photos", folders / "out"
    with pytest.raises(InputError, match="holds the files to read"):
        colour("--label_dir", labels, "--output_dir", labels)
    with pytest.raises(InputError, match="no picture's name"):
        colour("--label_dir", labels, "--sheet", folders / "sheet.doc")
    Image.new("RGB", (7, 3)).save(photos / "a.bmp")
    with pytest.raises(InputError, match=r"a\.png: .*must be of one size"):
        colour("--label_dir", labels, "--image_dir", photos, "--output_dir", out)
    (photos / "a.bmp").rename(folders / "stranger.bmp")
    with pytest.raises(InputError, match="holds no label map of the photographs"):
        colour("--label_dir", labels, "--image_dir", folders / "stranger.bmp", "--output_dir", out)
