"""FaceParser on pictures made of the one portrait that is at hand, whose parse as a portrait is the reference."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from faceparse import detection
from faceparse.classes import ClassSet
from faceparse.crops import Crop
from faceparse.errors import InputError
from faceparse.face_parser import Face, FaceParser, ParsedPhoto
from faceparse.images import read_photo
from faceparse.scenes import draw_backdrop, put_into

ROOT = Path(__file__).parents[1]
ASTRONAUT = ROOT / "assets/astronaut.jpg"
SMALL_SET = ClassSet(("background", "skin", "hair"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)))


@pytest.fixture(scope="module")
def parser():
    pytest.importorskip("dlib")
    return FaceParser()


@pytest.fixture(scope="module")
def portrait(parser):
    """The photograph and its labels, with the suit as background: it is cut off in scenes."""
    photo = read_photo(ASTRONAUT)
    labels = parser(photo, whole=True).labels
    return photo, np.where(labels == parser.class_set.names.index("cloth"), 0, labels)


def agreement(labels, truth):
    """The share of the pixels of a person that have the label which they should."""
    return (labels == truth)[truth > 0].mean()


def make_scene(portrait, *people):
    """A scene of the portrait at each (height, centre, angle), and its truth."""
    scene = draw_backdrop(np.random.default_rng(1), (800, 600))
    truth = np.zeros(scene.shape[:2], np.uint8)
    for height, centre, angle in people:
        put_into(scene, truth, *portrait, height, centre, angle)
    return scene, truth


def test_importing_the_package_loads_nothing_heavy():
    code = "import faceparse, sys; assert not {'torch', 'numpy', 'cv2', 'dlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    from faceparse import FaceParser as lazily

    assert lazily is FaceParser
    with pytest.raises(AttributeError):
        import faceparse

        faceparse.NoSuchName  # noqa: B018


@pytest.mark.slow
def test_two_faces_in_one_picture(parser, portrait):
    scene, truth = make_scene(portrait, (340, (200, 300), 0), (220, (600, 250), 0))
    parsed = parser(scene)
    assert len(parsed.faces) == 2 and parsed.labels.shape == (600, 800) and parsed.labels.dtype == np.uint8
    for face, x in zip(parsed.faces, (200, 600), strict=True):  # the larger one comes first
        assert face.box[0] < x < face.box[2]
    assert agreement(parsed.labels, truth) > 0.9
    assert ((parsed.labels > 0) & (truth == 0)).mean() < 0.04


@pytest.mark.slow
@pytest.mark.parametrize("angle", [30, -30])
def test_a_tilted_face_is_turned_upright(parser, portrait, angle):
    scene, truth = make_scene(portrait, (340, (400, 300), angle))
    parsed = parser(scene)
    assert len(parsed.faces) == 1
    assert parsed.faces[0].angle == pytest.approx(angle, abs=5)
    assert agreement(parsed.labels, truth) > 0.9


@pytest.mark.slow
def test_twelve_megapixels_stored_on_their_side(parser, portrait, tmp_path):
    scene, truth = make_scene(portrait, (400, (400, 300), 0))
    large = Image.fromarray(scene).resize((4000, 3000), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side: turn by 90 degrees clockwise to look at it
    large.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "large.jpg", exif=exif)
    parsed = parser(tmp_path / "large.jpg")
    assert parsed.labels.shape == (3000, 4000) and len(parsed.faces) == 1
    assert agreement(parsed.labels[2::5, 2::5], truth) > 0.9


def test_a_tiny_face(parser, portrait):
    scene, truth = make_scene(portrait, (90, (400, 300), 0))
    parsed = parser(scene)
    assert len(parsed.faces) == 1
    assert agreement(parsed.labels, truth) > 0.75


def test_a_portrait_is_parsed_as_a_whole(parser, portrait):
    """Paths, PIL images and arrays alone and in lists give what `whole` gives where the picture is such a crop."""
    photo, _ = portrait
    expected = parser(photo, whole=True).labels
    by_path, by_image = parser([ASTRONAUT, Image.open(ASTRONAUT)])
    for parsed in (by_path, by_image):
        np.testing.assert_array_equal(parsed.labels, expected)
        assert len(parsed.faces) == 1 and parsed.faces[0].box and parsed.faces[0].confidence > 0.8
    face = by_path.faces[0]
    assert face.probabilities.shape == (len(parser.class_set), *face.labels.shape)
    np.testing.assert_allclose(face.probabilities.sum(axis=0), 1, atol=1e-4)


def test_no_face(parser):
    parsed = parser(draw_backdrop(np.random.default_rng(3), (320, 240)))
    assert parsed.faces == [] and not parsed.labels.any()
    assert not parsed.probability("hair").any() and (parsed.probability("background") == 1).all()


def test_other_arrays_are_refused(parser):
    for array in (np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3)), np.zeros((0, 8, 3), np.uint8)):
        with pytest.raises(InputError, match="uint8 RGB"):
            parser(array)
    with pytest.raises(InputError, match="beard: no class"):
        parser(np.zeros((64, 64, 3), np.uint8), whole=True).probability("beard")


def test_without_dlib(monkeypatch):
    detection.detector.cache_clear()
    monkeypatch.setitem(sys.modules, "dlib", None)  # importing it fails
    parser = FaceParser()
    with pytest.raises(InputError, match=r"pip install -r requirements-faces\.txt"):
        parser(ASTRONAUT)
    assert parser(ASTRONAUT, whole=True).labels.any()


def sure_face(ids, crop):
    """A Face whose network gives each class id of a grid [h, w] nearly all of the probability."""
    probabilities = np.full((len(SMALL_SET), *np.shape(ids)), 0.01, np.float32)
    np.put_along_axis(probabilities, np.array(ids)[None], 0.98, axis=0)
    return Face(crop, np.log(probabilities), SMALL_SET)


def test_larger_faces_cover_smaller_ones_except_by_background():
    large = sure_face([[1, 1], [0, 0]], Crop(4, 4, 8, 8))  # skin above, background below
    small = sure_face([[2, 2], [2, 2]], Crop(4, 4, 4, 4))  # hair
    parsed = ParsedPhoto(np.zeros((10, 10, 3), np.uint8), [large, small], SMALL_SET)
    expected = np.zeros((10, 10), np.uint8)
    expected[4:6, 2:6] = 2
    expected[:4, :8] = 1
    # Rows 3 and 4 lie between the grid's points, where both classes are as likely.
    np.testing.assert_array_equal(np.delete(parsed.labels, [3, 4], axis=0), np.delete(expected, [3, 4], axis=0))


def test_a_view_of_an_array_is_searched_as_its_copy():
    """The usual way from OpenCV's BGR to RGB has a negative stride."""
    pytest.importorskip("dlib")
    photo = read_photo(ASTRONAUT)
    view = np.ascontiguousarray(photo[..., ::-1])[..., ::-1]
    assert detection.find_faces(view) == detection.find_faces(photo) != []


def test_probabilities_of_all_classes_sum_to_one_and_choose_the_labels():
    rng = np.random.default_rng(0)
    faces = [
        Face(Crop(*at, side, side, angle), np.log(rng.dirichlet((1, 1, 1), (6, 6)).transpose(2, 0, 1)), SMALL_SET)
        for at, side, angle in (((14, 12), 16, 20), ((5, 5), 6, 0))
    ]
    for face in faces:
        face.log_probabilities = face.log_probabilities.astype(np.float32)
    parsed = ParsedPhoto(np.zeros((24, 24, 3), np.uint8), faces, SMALL_SET)
    maps = np.stack([parsed.probability(name) for name in SMALL_SET.names])
    np.testing.assert_allclose(maps.sum(axis=0), 1, atol=1e-5)
    np.testing.assert_allclose(parsed.probability("skin", "hair"), maps[1] + maps[2], atol=1e-6)
    alone = ParsedPhoto(parsed.photo, faces[:1], SMALL_SET)
    maps = np.stack([alone.probability(name) for name in SMALL_SET.names])
    np.testing.assert_array_equal(alone.labels, maps.argmax(axis=0))


def test_torch_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the shipped checkpoint is found beside the code
    parser = torch.hub.load(str(ROOT), "face_parser", source="local", image_size=128)
    assert parser.image_size == 128 and parser(ASTRONAUT, whole=True).labels.shape == (448, 448)
