"""Augmentation against numpy, OpenCV and torchvision: photographs and masks stay aligned, ids stay ids."""

import math

import cv2
import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as reference

import faceparse.data.augmentation as tested
from faceparse.data.augmentation import MODES, apply_color, augment
from faceparse.data.classes import CELEBAMASK
from tools.make_sample_dataset import draw_face

SIZE = 64
MIRRORED = np.arange(256)  # written out by hand, not taken from the class set
MIRRORED[[4, 5, 6, 7, 8, 9]] = [5, 4, 7, 6, 9, 8]


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def paint(masks):
    """Return photographs, float [N, 3, S, S] in [0, 1], in the class colours of masks [N, S, S]."""
    colours = torch.full((256, 3), 128.0)
    colours[:19] = torch.tensor(CELEBAMASK.colours)
    return colours[masks.long()].permute(0, 3, 1, 2) / 255


def inside(mask):
    """Return where all 3 x 3 pixels around a pixel have one id, which is away from borders."""
    mask, kernel = np.asarray(mask, dtype=np.uint8), np.ones((3, 3))
    return cv2.erode(mask, kernel) == cv2.dilate(mask, kernel)  # beyond the edge OpenCV compares nothing


@pytest.fixture(scope="module")
def masks():
    """Two drawn faces and a square of 255, uint8 [2, 64, 64]; no part is thinner than 2 px."""
    small = np.stack([draw_face(SIZE // 2, 2, "train", index)[1] for index in range(2)])
    small[:, 2:8, 3:9] = 255
    return torch.from_numpy(small.repeat(2, axis=1).repeat(2, axis=2))


@pytest.fixture
def transform(monkeypatch):
    """Return `geometry` with its draws given, the same for each sample: flip first, then shift, rotate and zoom."""

    def apply(images, masks, flip=False, degrees=0.0, zoom=1.0, shift=(0.0, 0.0)):
        # The draws are in the order in which they are made; torch's grids measure the shift in half sides.
        draws = iter([0.0 if flip else 1.0, degrees, math.log(zoom), *(2 * each for each in shift)])
        monkeypatch.setattr(tested, "uniform", lambda n, low, high, generator: torch.full((n,), next(draws)))
        return tested.geometry(images, masks, rng())

    return apply


def opencv(mask, flip=False, degrees=0.0, zoom=1.0, shift=(0.0, 0.0)):
    """Apply the same geometry to a mask, uint8 [S, S], by numpy and cv2.warpAffine: nearest neighbour, 255 outside."""
    if flip:
        mask = MIRRORED[mask[:, ::-1]].astype(np.uint8)
    matrix = cv2.getRotationMatrix2D([(SIZE - 1) / 2] * 2, -degrees, zoom)
    move = np.array([[1, 0, -shift[0] * SIZE], [0, 1, -shift[1] * SIZE], [0, 0, 1]])
    return cv2.warpAffine(mask, matrix @ move, (SIZE, SIZE), flags=cv2.INTER_NEAREST, borderValue=255)


GEOMETRIES = {
    "flip": {"flip": True},
    "rotation": {"degrees": 25.0},
    "quarter turn": {"degrees": 90.0},
    "all": {"flip": True, "degrees": 20.0, "zoom": 0.8, "shift": (-0.07, 0.1)},
}
every_geometry = pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_gives_the_networks_input_by_the_generator_alone_and_draws_for_every_sample(masks, mode):
    photos, labels = torch.randint(256, (1, 3, SIZE, SIZE), generator=rng()).byte(), masks[:1].repeat(6, 1, 1)
    photos = photos.repeat(6, 1, 1, 1)
    before = photos.clone(), labels.clone()
    images, target = augment(photos, labels, mode, rng(7))
    torch.testing.assert_close(augment(photos, labels, mode, rng(7)), (images, target), rtol=0, atol=0)
    assert torch.equal(photos, before[0]) and torch.equal(labels, before[1])
    assert images.dtype == torch.float32 and images.shape == photos.shape
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert images.min() >= 0 and images.max() <= 1 and images.std() > 0.1
    assert target.dtype == torch.int64 and target.shape == labels.shape
    if mode == "none":
        assert torch.equal(images, photos / 255) and torch.equal(target, labels.long())
    else:
        assert not torch.equal(augment(photos, labels, mode, rng(8))[0], images)
        assert all(not torch.equal(images[i], images[j]) for i in range(6) for j in range(i))


@every_geometry
def test_mask_geometry_is_opencvs(masks, transform, geometry):
    _, labels = transform(paint(masks), masks.long(), **geometry)
    for label, mask in zip(labels.numpy(), masks.numpy(), strict=True):
        expected = opencv(mask, **geometry)
        compared = inside(expected)  # on a border the nearest neighbour depends on the last bits
        np.testing.assert_array_equal(label[compared], expected[compared])
        assert (label == expected).mean() > 0.99


@every_geometry
def test_photograph_and_mask_stay_aligned(masks, transform, geometry):
    """A photograph in the classes' colours still has them, away from borders, in the ids of the unflipped picture."""
    images, labels = transform(paint(masks), masks.long(), **geometry)
    own = torch.from_numpy(MIRRORED)[labels] if geometry.get("flip") else labels
    for image, expected, label in zip(images, paint(own), labels, strict=True):
        compared = torch.from_numpy(inside(label)) & (label != 255)
        assert compared.float().mean() > 0.3
        error = (image - expected).abs().amax(dim=0)[compared]
        assert (error < 1e-3).float().mean() > 0.995  # not at the tips of corners between two samples


def assert_covered(values, most):
    """Assert that draws cover the range from -most to most, and no more."""
    margin = most / 25
    assert -most - 1e-6 <= values.min() < margin - most and most - margin < values.max() <= most + 1e-6


def test_geometry_covers_its_ranges_and_no_more(monkeypatch):
    drawn, uniform = [], tested.uniform
    monkeypatch.setattr(tested, "uniform", lambda *given: drawn.append(uniform(*given)) or drawn[-1])
    tested.geometry(torch.zeros(400, 3, 2, 2), torch.zeros(400, 2, 2).long(), rng())
    flip, *others = drawn  # in the order of `transform`
    assert 150 < (flip < 0.5).sum() < 250
    for values, most in zip(others, (25, math.log(1.3), 0.2, 0.2), strict=True):
        assert_covered(values, most)


def test_surroundings_are_those_of_another_sample_with_its_mask(masks):
    """Pixel by pixel: what is not background stays, and where it is, either all or nothing comes from one neighbour."""
    labels = torch.cat([masks, masks.flip(2)]).long().repeat(16, 1, 1)
    photos = torch.rand(64, 3, SIZE, SIZE, generator=rng())
    images, found = tested.surroundings(photos, labels, rng())
    chosen = (images != photos).flatten(1).any(dim=1)
    replaced = (labels == 0) & chosen[:, None, None]
    assert torch.equal(images, torch.where(replaced[:, None], photos[torch.arange(64) - 1], photos))
    assert torch.equal(found, torch.where(replaced, labels[torch.arange(64) - 1], labels))
    assert 8 <= chosen.sum() <= 30  # within 3 standard deviations of 0.3 * 64


def test_people_are_scaled_and_moved_before_something_drawn_which_is_background():
    """They are squares of one colour that nothing drawn has, with an ignored column in the middle."""
    labels = torch.zeros(200, SIZE, SIZE, dtype=torch.long)
    labels[:, 32:, 16:48] = 3  # to the lower border, which must not mix with what is beyond it
    labels[:, 32:, 32] = 255
    photos = torch.full((200, 3, SIZE, SIZE), 9.0)
    images, found = tested.drawn_scene(photos, labels, rng())
    chosen = (images != photos).flatten(1).any(dim=1)
    assert 11 <= chosen.sum() <= 38  # within 3 standard deviations of 0.12 * 200
    assert torch.equal(found[~chosen], labels[~chosen])
    images, found = images[chosen], found[chosen]
    background = found == 0
    assert images.movedim(1, -1)[background].max() < 2 and images.movedim(1, -1)[~background].min() > 8.99
    sides = (~background).sum((1, 2)).sqrt() / (SIZE / 2)
    assert 0.2 < sides.min() < 0.4 and 0.9 < sides.max() < 1.3
    assert (found == 255).any() and (found == 3).any() and set(found.unique().tolist()) == {0, 3, 255}
    assert background.all(dim=0).float().mean() < 0.6  # they are all over the picture


def factors(**changed):
    """Return the parameters of apply_color for one sample; those not given change nothing."""
    neutral = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}
    return {name: torch.tensor([value]) for name, value in (neutral | changed).items()}


@pytest.fixture
def photo():
    """Return a random photograph, float [1, 3, 64, 64], of medium colours, so that torchvision clips nothing."""
    return 0.3 + 0.4 * torch.rand(1, 3, SIZE, SIZE, generator=rng())


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
@pytest.mark.parametrize("factor", [0.8, 1.2])
def test_colour_factors_are_torchvisions(photo, name, factor):
    expected = getattr(reference, f"adjust_{name}")(photo, factor)
    assert (expected - photo).abs().max() > 0.02
    # torchvision rounds the weight of red to 0.2989.
    torch.testing.assert_close(apply_color(photo, **factors(**{name: factor})), expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize("hue", [0.1, -0.19, 2.0])
def test_hue_turns_about_the_grey_axis(photo, hue):
    grey = photo[:, :1].expand(-1, 3, -1, -1)
    torch.testing.assert_close(apply_color(grey, **factors(hue=hue)), grey)
    turned = apply_color(photo, **factors(hue=hue))
    assert (turned - photo).abs().max() > 0.01
    torch.testing.assert_close(turned.sum(dim=1), photo.sum(dim=1))
    torch.testing.assert_close(turned.norm(dim=1), photo.norm(dim=1))
    green = apply_color(torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1), **factors(hue=2 * math.pi / 3)).flatten()
    torch.testing.assert_close(green, torch.tensor([0.0, 1, 0]), atol=1e-6, rtol=0)


def test_colour_factors_and_hue_cover_their_ranges_and_no_more(monkeypatch):
    drawn = []
    monkeypatch.setattr(tested, "apply_color", lambda images, *parameters: drawn.extend(parameters))
    tested.color(torch.zeros(400, 3, 2, 2), None, rng())
    *factors, hue = drawn
    for factor in factors:
        assert_covered(factor - 1, 0.2)
    assert_covered(hue, 0.03 * 2 * math.pi)


def test_blur_blends_some_samples_with_the_binomial_kernel():
    images, kernel = torch.rand(128, 3, 16, 16, generator=rng()), cv2.getGaussianKernel(3, 0)
    channels = images.flatten(0, 1).numpy()
    blurred = [cv2.sepFilter2D(each, -1, kernel, kernel, borderType=cv2.BORDER_REPLICATE) for each in channels]
    full_change = torch.from_numpy(np.stack(blurred)).view(images.shape) - images
    change = tested.blur(images, None, rng())[0] - images
    amount = (change * full_change).sum((1, 2, 3)) / (full_change**2).sum((1, 2, 3))
    torch.testing.assert_close(change, amount[:, None, None, None] * full_change, atol=1e-5, rtol=0)
    assert 0.9 < amount.max() < 1 and amount.min() == 0
    assert 0.18 < (amount > 0).float().mean() < 0.42  # within 3 standard deviations of 0.3


def test_noise_is_drawn_per_sample_and_spares_half_of_them():
    grey = torch.full((200, 3, 16, 16), 0.5)
    noise = tested.noise(grey, None, rng())[0] - grey
    deviation = noise.flatten(1).std(dim=1)
    assert 70 <= (deviation == 0).sum() <= 130
    assert 0.025 < deviation.max() < 1.1 * 0.03 and (noise.flatten(1).mean(dim=1).abs() < 0.01).all()
