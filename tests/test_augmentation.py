"""Augmentation against numpy, OpenCV and torchvision: photographs and masks stay aligned, ids stay ids."""

import math

import cv2
import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as reference

import faceparse.data.augmentation as augment_module
from faceparse.data.augmentation import (
    apply_color,
    augment,
    random_blur,
    random_color,
    random_cutmix,
    random_geometry,
    random_noise,
    random_surroundings,
    wide_geometry,
)
from faceparse.data.classes import CELEBAMASK
from tools.make_sample_dataset import draw_face

SIZE = 64
MIRRORED = np.arange(256)  # written out by hand, not taken from faceparse/classes.py
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
    mask = np.pad(np.asarray(mask, dtype=np.uint8), 1, mode="edge")
    kernel = np.ones((3, 3))
    return (cv2.erode(mask, kernel) == cv2.dilate(mask, kernel))[1:-1, 1:-1]


@pytest.fixture(scope="module")
def masks():
    """Two drawn faces, which hold all 19 classes, uint8 [2, 64, 64]; no part is thinner than 2 px."""
    small = np.stack([draw_face(SIZE // 2, 0, "train", index)[1] for index in range(2)])
    return torch.from_numpy(small.repeat(2, axis=1).repeat(2, axis=2))


@pytest.fixture
def photos():
    return torch.randint(256, (6, 3, SIZE, SIZE), dtype=torch.uint8, generator=rng())


@pytest.fixture
def transform(monkeypatch):
    """random_geometry with its draws given, the same for each sample: flip first, then shift, rotate and zoom."""

    def apply(images, masks, flip=False, degrees=0.0, zoom=1.0, shift=(0.0, 0.0)):
        # The draws are in the order in which they are made; torch's grids measure the shift in half sides.
        draws = iter([0.0 if flip else 1.0, degrees, math.log(zoom), *(2 * each for each in shift)])
        monkeypatch.setattr(augment_module, "uniform", lambda n, low, high, generator: torch.full((n,), next(draws)))
        return random_geometry(images, masks, rng())

    return apply


def opencv(mask, flip=False, degrees=0.0, zoom=1.0, shift=(0.0, 0.0)):
    """Apply the same geometry to a mask, uint8 [S, S], by numpy and cv2.warpAffine: nearest neighbour, 255 outside."""
    if flip:
        mask = MIRRORED[mask[:, ::-1]].astype(np.uint8)
    centre = (SIZE - 1) / 2
    matrix = cv2.getRotationMatrix2D((centre, centre), -degrees, zoom)
    move = np.array([[1, 0, -shift[0] * SIZE], [0, 1, -shift[1] * SIZE], [0, 0, 1]])
    return cv2.warpAffine(mask, matrix @ move, (SIZE, SIZE), flags=cv2.INTER_NEAREST, borderValue=255)


GEOMETRIES = {
    "nothing": {},
    "flip": {"flip": True},
    "rotation": {"degrees": 25.0},
    "rotation the other way": {"degrees": -17.0},
    "quarter turn": {"degrees": 90.0},
    "enlarged": {"zoom": 1.3},
    "reduced": {"zoom": 1 / 1.3},
    "shift": {"shift": (0.1, -0.05)},
    "all": {"flip": True, "degrees": 20.0, "zoom": 0.8, "shift": (-0.07, 0.1)},
    "all but flip": {"degrees": -20.0, "zoom": 1.2, "shift": (0.05, 0.08)},
}
every_geometry = pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)


def test_mode_none_only_scales(photos):
    labels = torch.randint(19, (6, SIZE, SIZE), dtype=torch.uint8, generator=rng())
    images, target = augment(photos, labels, "none", rng())
    assert torch.equal(images, photos.float() / 255)
    assert torch.equal(target, labels.long())


@pytest.mark.parametrize("mode", ["none", "color", "full", "wide", "strong"])
def test_output_types_range_and_layout(photos, masks, mode):
    images, target = augment(photos, masks.repeat(3, 1, 1), mode, rng())
    assert images.dtype == torch.float32 and images.shape == photos.shape
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert images.min() >= 0 and images.max() <= 1 and images.std() > 0.1
    assert target.dtype == torch.int64 and target.shape == (6, SIZE, SIZE)


@pytest.mark.parametrize("mode", ["color", "full", "wide", "strong"])
def test_generator_alone_decides(photos, masks, mode):
    labels = masks.repeat(3, 1, 1)
    torch.manual_seed(1)
    first = augment(photos, labels, mode, rng(7))
    torch.manual_seed(2)
    again, other = augment(photos, labels, mode, rng(7)), augment(photos, labels, mode, rng(8))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize("mode", ["color", "full", "wide", "strong"])
def test_every_sample_draws_its_own_parameters(photos, masks, mode):
    images, target = augment(photos[:1].repeat(8, 1, 1, 1), masks[:1].repeat(8, 1, 1), mode, rng())
    for i in range(8):
        for j in range(i):
            assert not torch.equal(images[i], images[j])
            assert torch.equal(target[i], target[j]) == (mode == "color")


def test_colour_mode_leaves_the_mask_and_flat_areas_in_place(masks):
    images, target = augment((paint(masks) * 255).byte(), masks, "color", rng())
    assert torch.equal(target, masks.long())
    for image, mask in zip(images, masks, strict=True):
        for index in mask.unique():
            assert image[:, mask == index].std(dim=1).max() < 1e-5


def test_input_is_not_changed(photos, masks):
    labels = masks.repeat(3, 1, 1)
    photos_before, labels_before = photos.clone(), labels.clone()
    augment(photos, labels, "full", rng())
    assert torch.equal(photos, photos_before) and torch.equal(labels, labels_before)


def test_flip_mirrors_the_picture_and_swaps_left_and_right(masks):
    """Without rotation, zoom and shift each sample is itself or its exact mirror image, each about half of the time."""
    mask = masks[1]
    photo = torch.rand(3, SIZE, SIZE, generator=rng())
    still = {"rotation": 0.0, "scale": 1.0, "shift": 0.0}
    images, labels = random_geometry(photo.repeat(64, 1, 1, 1), mask.long().repeat(64, 1, 1), rng(), CELEBAMASK, still)
    mirrored = {False: (photo.numpy(), mask.numpy()), True: (photo.numpy()[..., ::-1], MIRRORED[mask.numpy()[:, ::-1]])}
    flips = 0
    for image, label in zip(images.numpy(), labels.numpy(), strict=True):
        flipped = abs(image - mirrored[True][0]).max() < 1e-4
        np.testing.assert_allclose(image, mirrored[flipped][0], atol=1e-4)
        np.testing.assert_array_equal(label, mirrored[flipped][1])
        flips += flipped
    assert 20 <= flips <= 44  # within 3 standard deviations of 32


def test_flipped_face_keeps_the_subjects_left_in_the_right_half(masks, transform):
    _, labels = transform(paint(masks), masks.long(), flip=True)
    for left, right in ((4, 5), (6, 7), (8, 9)):
        column = {index: torch.nonzero(labels == index)[:, 2].float().mean() for index in (left, right)}
        assert column[left] > column[right]


@every_geometry
def test_mask_geometry_is_opencvs(masks, transform, geometry):
    _, labels = transform(paint(masks), masks.long(), **geometry)
    for label, mask in zip(labels.numpy(), masks.numpy(), strict=True):
        expected = opencv(mask, **geometry)
        compared = inside(expected)  # on a border the nearest neighbour depends on the last bits
        assert compared.mean() > 0.5
        np.testing.assert_array_equal(label[compared], expected[compared])
        assert (label == expected).mean() > 0.99


def test_reference_tells_the_directions_apart(masks):
    """Each geometry differs from the opposite one, so the comparison above also proves the signs."""
    mask = masks[0].numpy()
    for one, other in (({"degrees": 25}, {"degrees": -25}), ({"zoom": 1.3}, {"zoom": 1 / 1.3})):
        assert (opencv(mask, **one) == opencv(mask, **other)).mean() < 0.9
    shifted = opencv(mask, shift=(0.1, -0.05))
    assert (shifted == opencv(mask, shift=(-0.1, 0.05))).mean() < 0.9
    assert (shifted[:, -6:] == 255).all() and (shifted[:3] == 255).all()  # left and down


@every_geometry
def test_photograph_and_mask_stay_aligned(masks, transform, geometry):
    """A photograph in the classes' colours still has them, away from borders, in the ids of the unflipped picture."""
    images, labels = transform(paint(masks), masks.long(), **geometry)
    own = torch.from_numpy(MIRRORED)[labels] if geometry.get("flip") else labels
    check_colours(images, own, labels)


def test_photograph_and_mask_stay_aligned_under_random_draws(masks):
    """Of each of 16 samples its colours tell whether it was flipped."""
    images, labels = random_geometry(paint(masks).repeat(8, 1, 1, 1), masks.long().repeat(8, 1, 1), rng())
    unflipped = torch.from_numpy(MIRRORED)[labels]
    errors = [(images - paint(ids)).abs().mean(dim=(1, 2, 3)) for ids in (labels, unflipped)]
    flipped = errors[1] < errors[0]
    assert 3 <= flipped.sum() <= 13
    check_colours(images, torch.where(flipped[:, None, None], unflipped, labels), labels)


def check_colours(images, own, labels):
    """Assert that photographs have the colours of the ids `own`, except at the tips of corners between two samples."""
    for image, expected, label in zip(images, paint(own), labels, strict=True):
        compared = torch.from_numpy(inside(label)) & (label != 255)
        assert compared.float().mean() > 0.3
        error = (image - expected).abs().amax(dim=0)[compared]
        assert (error < 1e-3).float().mean() > 0.995


def geometry_of(images):
    """Return degrees, zoom, shift [N, 2] and mirror sign of samples of `ramps`, read from the pixels in the middle."""
    middle = images[:, :2, 31:33, 31:33]
    along_x = (middle[..., 0, 1] - middle[..., 0, 0]) / (2 / SIZE)  # [N, 2]: change of x and y of the source
    along_y = (middle[..., 1, 0] - middle[..., 0, 0]) / (2 / SIZE)
    determinant = along_x[:, 0] * along_y[:, 1] - along_x[:, 1] * along_y[:, 0]
    mirror = determinant.sign()
    degrees = torch.rad2deg(torch.atan2(mirror * along_y[:, 0], mirror * along_x[:, 0]))
    return degrees, determinant.abs().rsqrt(), middle.mean(dim=(2, 3)) / 2, mirror  # the shift as a share of the side


def ramps(n):
    """Return n photographs [n, 3, S, S] whose colours are the coordinates, and masks of one class."""
    ramp = torch.linspace(-1 + 1 / SIZE, 1 - 1 / SIZE, SIZE)  # pixel centres on a side of length 2
    photo = torch.stack([ramp.expand(SIZE, SIZE), ramp[:, None].expand(SIZE, SIZE), torch.zeros(SIZE, SIZE)])
    return photo.repeat(n, 1, 1, 1), torch.ones(n, SIZE, SIZE, dtype=torch.long)


def check_ranges(degrees, zoom, shift, rotation, scale, largest_shift):
    for values, least, most in (
        (degrees, -rotation, rotation),
        (zoom, 1 / scale, scale),
        (shift[:, 0], -largest_shift, largest_shift),
        (shift[:, 1], -largest_shift, largest_shift),
    ):
        margin = (most - least) / 50
        assert least - 1e-3 <= values.min() < least + margin and most - margin < values.max() <= most + 1e-3


def test_random_geometry_covers_its_ranges_and_no_more():
    degrees, zoom, shift, mirror = geometry_of(random_geometry(*ramps(400), rng())[0])
    assert 150 < (mirror < 0).sum() < 250
    check_ranges(degrees, zoom, shift, 25, 1.3, 0.1)


def test_wide_geometry_is_wider_for_half_of_the_samples():
    """Also for a batch of one and of three."""
    degrees, zoom, shift, _ = geometry_of(wide_geometry(*ramps(800), rng())[0])
    check_ranges(degrees[:400], zoom[:400], shift[:400], 45, 2, 0.25)
    check_ranges(degrees[400:], zoom[400:], shift[400:], 25, 1.3, 0.1)
    for n in (1, 3):
        images, labels = wide_geometry(*ramps(n), rng())
        assert images.shape == (n, 3, SIZE, SIZE) and labels.shape == (n, SIZE, SIZE)


def test_surroundings_are_those_of_another_sample_with_its_mask(masks):
    """Pixel by pixel: what is not background stays, and where it is, either all or nothing comes from one neighbour."""
    labels = torch.cat([masks, masks.flip(2)]).long().repeat(16, 1, 1)
    photos = torch.rand(64, 3, SIZE, SIZE, generator=rng())
    images, found = random_surroundings(photos, labels, rng())
    replaced = 0
    for i in range(64):
        here = labels[i] == 0
        source = i - 1 if not torch.equal(images[i], photos[i]) else i
        assert torch.equal(images[i], torch.where(here, photos[source], photos[i]))
        assert torch.equal(found[i], torch.where(here, labels[source], labels[i]))
        replaced += source != i
    assert 8 <= replaced <= 30  # within 3 standard deviations of 0.3 * 64


def test_cutmix_replaces_a_rectangle_by_that_of_another_sample_with_its_mask():
    """Pixel by pixel; the share of samples, the rectangle's area and the ratio of its sides are those asked for."""
    photos = torch.rand(400, 1, SIZE, SIZE, generator=rng()).expand(400, 3, SIZE, SIZE)
    labels = torch.arange(400)[:, None, None].expand(400, SIZE, SIZE)
    images, found = random_cutmix(photos, labels, rng())
    shares = []
    for i in range(400):
        replaced = found[i] != labels[i]
        assert torch.equal(found[i], torch.where(replaced, labels[i - 1], labels[i]))
        assert torch.equal(images[i], torch.where(replaced, photos[i - 1], photos[i]))
        if replaced.any():
            height, width = replaced.any(1).sum().item(), replaced.any(0).sum().item()
            assert replaced.sum() == height * width  # a rectangle
            assert 1 / 3.8 < height / width < 3.8  # 3, and a pixel of 64 more or less
            shares.append(height * width / SIZE**2)
    assert 170 <= len(shares) <= 230  # within 3 standard deviations of 200
    assert 0.01 < min(shares) < 0.05 and 0.35 < max(shares) < 0.42


def test_mode_strong_mixes_samples_and_changes_colours_more(monkeypatch):
    """Sample i is of brightness i / 20 and class i, so that what comes from another sample shows."""
    grey = (torch.arange(1, 9) * 12).to(torch.uint8)[:, None, None, None].expand(8, 3, SIZE, SIZE)
    labels = torch.arange(10, 18).to(torch.uint8)[:, None, None].expand(8, SIZE, SIZE)
    mixed, factors = {}, {}
    for mode in ("full", "strong"):
        many = [augment(grey, labels, mode, rng(seed)) for seed in range(12)]
        targets = torch.stack([masks for _, masks in many])
        own = targets == torch.arange(10, 18)[:, None, None]
        mixed[mode] = (~own & (targets != 255)).any(dim=(2, 3)).float().mean()
        brightness = torch.stack([images[:, 0] for images, _ in many])
        means = (brightness * own).sum(dim=(2, 3)) / own.sum(dim=(2, 3))
        factors[mode] = means / (torch.arange(1, 9) * 12 / 255)
    assert mixed["full"] == 0 and 0.3 < mixed["strong"] < 0.7
    assert factors["full"].max() < 1.25 < 1.4 < factors["strong"].max()


def test_outside_is_ignored_in_the_mask_and_reflected_in_the_photograph(transform):
    ones = torch.ones(1, 3, SIZE, SIZE)
    images, labels = transform(ones, torch.full((1, SIZE, SIZE), 18), degrees=20, zoom=0.8, shift=(0.1, 0.1))
    expected = opencv(np.full((SIZE, SIZE), 18, dtype=np.uint8), degrees=20, zoom=0.8, shift=(0.1, 0.1))
    assert 0.2 < (expected == 255).mean() < 0.6
    assert (labels[0].numpy() != expected).mean() < 0.02  # border pixels
    torch.testing.assert_close(images, ones)


def test_ids_are_never_interpolated():
    """On a chess board of 0 and 18 every pixel is at a border, where blending would give ids in between."""
    board = 18 * torch.eye(2, dtype=torch.uint8).repeat(SIZE // 2, SIZE // 2).repeat(32, 1, 1)
    labels = augment(torch.zeros(32, 3, SIZE, SIZE, dtype=torch.uint8), board, "full", rng())[1]
    assert set(labels.unique().tolist()) == {0, 18, 255}


def test_ignored_pixels_stay_ignored(masks, transform):
    labels = masks.long().clone()
    labels[:, 20:40, 10:30] = 255
    _, same = transform(paint(labels), labels)
    assert torch.equal(same, labels)
    _, flipped = transform(paint(labels), labels, flip=True)
    assert (flipped[:, 20:40, 34:54] == 255).all() and (flipped == 255).sum() == (labels == 255).sum()


def factors(**changed):
    """Return the parameters of apply_color for one sample; those not given change nothing."""
    neutral = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}
    return {name: torch.tensor([value]) for name, value in (neutral | changed).items()}


@pytest.fixture
def photo():
    """Return a random photograph, float [1, 3, 64, 64], of medium colours, so that torchvision clips nothing."""
    return 0.3 + 0.4 * torch.rand(1, 3, SIZE, SIZE, generator=rng())


def test_neutral_colour_parameters_change_nothing(photo):
    torch.testing.assert_close(apply_color(photo, **factors()), photo)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
@pytest.mark.parametrize("factor", [0.8, 1.2])
def test_colour_factors_are_torchvisions(photo, name, factor):
    expected = getattr(reference, f"adjust_{name}")(photo, factor)
    assert (expected - photo).abs().max() > 0.02
    # torchvision rounds the weight of red to 0.2989.
    torch.testing.assert_close(apply_color(photo, **factors(**{name: factor})), expected, atol=2e-4, rtol=0)


def test_colour_parameters_belong_to_their_sample(photo):
    """In a batch each sample gets what it gets alone; contrast takes its own mean, not the batch's."""
    batch = torch.cat([photo, photo**2, photo.flip(1) / 2])
    each = [factors(brightness=0.9, contrast=1.2), factors(saturation=0.8, hue=0.2), factors(contrast=0.8, hue=-0.1)]
    together = {name: torch.cat([one[name] for one in each]) for name in each[0]}
    alone = [apply_color(image[None], **one) for image, one in zip(batch, each, strict=True)]
    torch.testing.assert_close(apply_color(batch, **together), torch.cat(alone))


@pytest.mark.parametrize("hue", [0.1, -0.19, 2.0])
def test_hue_turns_about_the_grey_axis(photo, hue):
    grey = photo[:, :1].expand(-1, 3, -1, -1)
    torch.testing.assert_close(apply_color(grey, **factors(hue=hue)), grey)
    turned = apply_color(photo, **factors(hue=hue))
    assert (turned - photo).abs().max() > 0.01
    torch.testing.assert_close(turned.sum(dim=1), photo.sum(dim=1))
    torch.testing.assert_close(turned.norm(dim=1), photo.norm(dim=1))


def test_a_third_of_a_turn_of_hue_makes_red_green():
    red = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1)
    turned = apply_color(red, **factors(hue=2 * math.pi / 3))
    torch.testing.assert_close(turned.flatten(), torch.tensor([0.0, 1, 0]), atol=1e-6, rtol=0)


def draw_only(monkeypatch, name):
    for other in {"BRIGHTNESS", "CONTRAST", "SATURATION", "HUE"} - {name}:
        monkeypatch.setattr(augment_module, other, 0.0)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_random_factor_of_each_sample_covers_its_range_and_no_more(photo, monkeypatch, name):
    """Each factor moves a photograph on the line from what torchvision makes of it with factor 0."""
    draw_only(monkeypatch, name.upper())
    start = getattr(reference, f"adjust_{name}")(photo, 0.0)
    change, full = random_color(photo.repeat(200, 1, 1, 1), rng()) - start, photo - start
    factor = (change * full).sum(dim=(1, 2, 3)) / (full * full).sum()
    assert len(factor.unique()) > 190
    assert 0.799 <= factor.min() < 0.81 and 1.19 < factor.max() <= 1.201


def test_stronger_colour_is_that_of_half_of_the_samples(photo, monkeypatch):
    draw_only(monkeypatch, "BRIGHTNESS")
    factor = (random_color(photo.repeat(400, 1, 1, 1), rng(), 2.5) / photo).mean(dim=(1, 2, 3))
    assert 0.5 <= factor.min() + 1e-5 < 0.51 and 1.49 < factor.max() <= 1.5 + 1e-5
    # 60 % of the stronger half, and none of the others, change by more than 0.2; three standard deviations are 28.
    assert 92 <= ((factor - 1).abs() > 0.2 + 1e-5).sum() <= 148


def test_random_hue_of_each_sample_covers_its_range_and_no_more(monkeypatch):
    draw_only(monkeypatch, "HUE")
    red = random_color(torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1).repeat(200, 1, 1, 1), rng()).flatten(1)
    # Across the grey axis red points to (2, -1, -1)/sqrt(6); a quarter of a turn on lies (0, 1, -1)/sqrt(2).
    along, across = red @ torch.tensor([2.0, -1, -1]) / math.sqrt(6), red @ torch.tensor([0.0, 1, -1]) / math.sqrt(2)
    turns = torch.atan2(across, along) / (2 * math.pi)
    assert len(turns.unique()) > 190
    assert -0.0301 <= turns.min() < -0.029 and 0.029 < turns.max() <= 0.0301


def test_blur_blends_some_samples_with_the_binomial_kernel(monkeypatch):
    images = torch.rand(8, 3, 16, 16, generator=rng())
    kernel = cv2.getGaussianKernel(3, 0)
    blurred = np.stack(
        [
            [cv2.sepFilter2D(c, -1, kernel, kernel, borderType=cv2.BORDER_REPLICATE) for c in image]
            for image in images.numpy()
        ]
    )
    monkeypatch.setattr(augment_module, "BLUR", 1.0)
    change, full_change = (random_blur(images, rng()) - images).numpy(), blurred - images.numpy()
    for one, full in zip(change, full_change, strict=True):
        amount = (one * full).sum() / (full * full).sum()
        assert 0 < amount < 1
        np.testing.assert_allclose(one, amount * full, atol=1e-5)
    monkeypatch.setattr(augment_module, "BLUR", 0.0)
    assert torch.equal(random_blur(images, rng()), images)


def test_noise_is_drawn_per_sample_and_spares_half_of_them():
    grey = torch.full((200, 3, 16, 16), 0.5)
    noise = random_noise(grey, rng()) - grey
    deviation = noise.flatten(1).std(dim=1)
    assert 70 <= (deviation == 0).sum() <= 130
    assert 0.025 < deviation.max() < 1.1 * 0.03
    assert (noise.flatten(1).mean(dim=1).abs() < 0.01).all()


@pytest.mark.parametrize(("mode", "noisy"), [("none", 0), ("color", 0), ("full", 1), ("wide", 1), ("strong", 1)])
def test_which_modes_add_noise(monkeypatch, mode, noisy):
    """A flat picture stays flat under everything but noise, which half of the samples get, and mixing."""
    monkeypatch.setattr(augment_module, "CUTMIX", 0.0)
    flat = torch.full((200, 3, 16, 16), 128, dtype=torch.uint8)
    images, _ = augment(flat, torch.zeros(200, 16, 16, dtype=torch.uint8), mode, rng())
    share = (images.flatten(2).std(dim=2) > 1e-4).any(dim=1).float().mean()
    assert share == 0 if not noisy else 0.39 < share < 0.61  # 3 standard deviations


@pytest.mark.parametrize(("mode", "blurred"), [("none", 0), ("color", 0), ("full", 1), ("strong", 1)])
def test_which_modes_blur(monkeypatch, mode, blurred):
    """The binomial blur makes a chess board grey, so blending with it lowers the range; 0.3 of the samples get that."""
    for name in ("BRIGHTNESS", "CONTRAST", "SATURATION", "HUE", "NOISE", "CUTMIX"):
        monkeypatch.setattr(augment_module, name, 0.0)
    for name, nothing in {"rotation": 0.0, "scale": 1.0, "shift": 0.0}.items():
        monkeypatch.setitem(augment_module.GEOMETRY, name, nothing)
    board = 255 * torch.eye(2, dtype=torch.uint8).repeat(8, 8).expand(400, 3, 16, 16)
    images, _ = augment(board, torch.zeros(400, 16, 16, dtype=torch.uint8), mode, rng())
    middle = images[:, 0, 2:-2, 2:-2].flatten(1)
    amount = 1 - (middle.amax(dim=1) - middle.amin(dim=1))
    share = (amount > 1e-3).float().mean()
    assert share == 0 if not blurred else 0.23 < share < 0.37  # 3 standard deviations
    assert not blurred or amount.max() > 0.9


def test_every_sample_draws_its_own_shift_in_both_directions():
    """Between 0 and 0.1 of the side either way, 0.05 in the mean of the amounts, whether it is mirrored or not."""
    shift = geometry_of(random_geometry(*ramps(400), rng())[0])[2]
    for amounts in shift.abs().T:
        assert amounts.mean() == pytest.approx(0.05, abs=0.005)  # 3 standard deviations


def test_three_in_ten_samples_get_other_surroundings():
    images, labels = torch.arange(1000.0).view(-1, 1, 1, 1).expand(-1, 3, 2, 2), torch.zeros(1000, 2, 2).long()
    found, _ = random_surroundings(images, labels, rng())
    assert 256 <= (found != images).all(dim=(1, 2, 3)).sum() <= 344  # within 3 standard deviations of 300
