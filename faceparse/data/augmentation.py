"""Augmentation of a whole batch, on the device that trains: `MODES` names what moves the pixels, and what follows.

Each function takes float images [N, 3, S, S] in the range 0 to 1, int64 masks [N, S, S] and a generator of the CPU, and
returns new images and masks; what flips them takes the class set too. Every sample draws its own parameters, all of
them from the generator.
"""

import functools
import math

import torch
from torch.nn import functional as F

from faceparse.data.classes import CELEBAMASK, IGNORE_INDEX
from faceparse.data.images import LUMA

# Either way: degrees of rotation, largest factor of enlargement or reduction, shift as a share of the side.
GEOMETRY = {"rotation": 25.0, "scale": 1.3, "shift": 0.1}
WIDE_GEOMETRY = {"rotation": 45.0, "scale": 2.0, "shift": 0.25}
SURROUNDED = 0.3  # share of samples that stand before another photograph
DRAWN = 0.12  # share of samples that stand before something drawn
DRAWN_SCALE = (0.25, 1.25)  # of such a sample
THINGS, THING_SIZE = 12, (0.01, 0.4)  # their number, and half their length and breadth as shares of the picture's side
BRIGHTNESS = CONTRAST = SATURATION = 0.2  # factors 1 +- this
HUE = 0.03  # turns of the colour circle, either way
BLUR = 0.3  # share of samples that are blurred
NOISE = 0.03  # largest standard deviation, of the range 0 to 1


def uniform(n, low, high, generator):
    """Return n draws from [low, high) as [n], on the CPU."""
    return torch.empty(n).uniform_(low, high, generator=generator)


@functools.cache
def constant(values, device):
    """Return nested tuples as a tensor on the device, cached because sending it makes the host wait."""
    return torch.tensor(values, device=device)


def geometry(images, masks, generator, class_set=CELEBAMASK, ranges=GEOMETRY):
    """Flip, rotate, scale and shift with one resampling grid. Outside, photographs reflect and masks are ignored."""
    n, device = len(images), images.device
    rotation, scale, shift = ranges["rotation"], math.log(ranges["scale"]), 2 * ranges["shift"]  # the grid's side is 2
    flipped = uniform(n, 0, 1, generator) < 0.5
    angle = uniform(n, -rotation, rotation, generator) * (math.pi / 180)
    zoom = uniform(n, -scale, scale, generator).exp()
    shift_x = uniform(n, -shift, shift, generator)
    shift_y = uniform(n, -shift, shift, generator)
    # affine_grid maps output to input positions, so this is the inverse transform; the flip comes first of all.
    cos, sin = angle.cos() / zoom, angle.sin() / zoom
    mirror = torch.where(flipped, -1.0, 1.0)
    theta = torch.stack([mirror * cos, mirror * sin, mirror * shift_x, -sin, cos, shift_y], dim=1).view(n, 2, 3)
    theta, flipped = theta.to(device, non_blocking=True), flipped.to(device, non_blocking=True)
    grid = F.affine_grid(theta, images.shape, align_corners=False)
    images = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    masks = resample_masks(masks, grid)
    swap = constant(tuple(class_set.flipped_ids()), device)
    return images, torch.where(flipped[:, None, None], swap[masks], masks)


def wide_geometry(images, masks, generator, class_set=CELEBAMASK):
    """`geometry`, with the wider ranges for every second sample."""
    parts = [
        geometry(images[first::2], masks[first::2], generator, class_set, ranges)
        for first, ranges in enumerate((WIDE_GEOMETRY, GEOMETRY)[: len(images)])
    ]
    return torch.cat([each for each, _ in parts]), torch.cat([each for _, each in parts])


def surroundings(images, masks, generator):
    """Fill the background, id 0, of a share of the samples with another one, whose people keep their labels."""
    chosen = (uniform(len(images), 0, 1, generator) < SURROUNDED).to(images.device, non_blocking=True)
    replaced = (masks == 0) & chosen[:, None, None]
    images = torch.where(replaced[:, None], images.roll(1, dims=0), images)
    return images, torch.where(replaced, masks.roll(1, dims=0), masks)


def drawn_scene(images, masks, generator):
    """Move and scale a share of the samples, without their background, to somewhere before something drawn.

    So the network does not take any colours below a neck for clothes. What is ignored stays so.
    """
    chosen = (uniform(len(images), 0, 1, generator) < DRAWN).nonzero()[:, 0]
    n = len(chosen)
    if not n:
        return images, masks
    scale = uniform(n, *map(math.log, DRAWN_SCALE), generator).exp()
    x, y = (uniform(n, -1, 1, generator) * (1 - scale).abs() / scale for _ in range(2))
    theta = torch.stack([1 / scale, 0 * x, x, 0 * y, 1 / scale, y], dim=1).view(n, 2, 3)
    chosen, theta = (each.to(images.device, non_blocking=True) for each in (chosen, theta))
    grid = F.affine_grid(theta, images[chosen].shape, align_corners=False)
    people = F.grid_sample(images[chosen], grid, padding_mode="border", align_corners=False)
    labels = resample_masks(masks[chosen], grid, outside=0)
    pictures = torch.where(labels[:, None] == 0, draw_things(n, images.shape[-1], images.device, generator), people)
    return images.index_copy(0, chosen, pictures), masks.index_copy(0, chosen, labels)


def draw_things(n, side, device, generator):
    """Return float [n, 3, side, side]: soft colours, and before them ellipses and boxes of one colour each."""
    positions = (torch.arange(side, device=device) + 0.5) / side
    angle, x, y = (uniform(THINGS * n, 0, high, generator).view(THINGS, n) for high in (math.pi, 1, 1))
    half_sides = uniform(2 * THINGS * n, *map(math.log, THING_SIZE), generator).exp().view(2, THINGS, n)
    # How far away a pixel is along a thing's length and along its breadth, 1 at its rim, is linear in its position.
    across, down = torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])
    terms = torch.stack([across, down, across * x + down * y], dim=2) / half_sides[:, :, None]
    terms, thing = terms.to(device, non_blocking=True), torch.zeros(n, side, side, dtype=torch.long, device=device)
    for number in range(THINGS):
        across, down, offset = terms[:, number].movedim(1, 0)[..., None, None]
        length, breadth = (across * positions + (down * positions[:, None] - offset)).abs()
        inside = (length.square() + breadth.square() if number % 2 else torch.maximum(length, breadth)) < 1
        thing = torch.where(inside, number + 1, thing)
    colours = torch.rand(n, 3, THINGS + 1, generator=generator).to(device, non_blocking=True)
    colours = colours.gather(2, thing.flatten(1)[:, None].expand(-1, 3, -1)).view(n, 3, side, side)
    soft = uniform(n, 0.15, 0.85, generator)[:, None, None, None] + 0.15 * torch.randn(n, 3, 4, 4, generator=generator)
    soft = F.interpolate(soft.to(device, non_blocking=True), size=(side, side), mode="bicubic", align_corners=False)
    return torch.where(thing[:, None] > 0, colours, soft)


def resample_masks(masks, grid, outside=IGNORE_INDEX):
    """Resample int64 masks [N, S, S] by nearest neighbour; beyond them is the id `outside`."""
    # grid_sample fills with 0, so all ids are raised by one before and lowered after.
    shifted = F.grid_sample((masks + 1).unsqueeze(1).float(), grid, mode="nearest", align_corners=False)
    masks = shifted.squeeze(1).round().long() - 1
    return torch.where(masks < 0, outside, masks)


def color(images, masks, generator):
    """Change brightness, contrast, saturation and hue."""
    n = len(images)
    factors = [uniform(n, 1 - most, 1 + most, generator) for most in (BRIGHTNESS, CONTRAST, SATURATION)]
    hue = uniform(n, -HUE, HUE, generator) * (2 * math.pi)
    return apply_color(images, *factors, hue), masks


def apply_color(images, brightness, contrast, saturation, hue):
    """Apply parameters [N] on the CPU: three factors (1 is no change) and the hue's turn in radians (0 is no change).

    All four are one matrix and offset per sample. Contrast keeps the picture's mean grey, saturation each pixel's luma,
    hue turns about the grey axis (Rodrigues).
    """
    n, channels, height, width = images.shape
    identity, luma = torch.eye(3), torch.tensor(LUMA)
    # Turning about (1, 1, 1)/sqrt(3): cos I + sin K + (1 - cos)/3, K the cross-product matrix.
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    cos, sin = hue.cos()[:, None, None], hue.sin()[:, None, None]
    turn = cos * identity + sin * cross + (1 - cos) / 3
    saturation = saturation[:, None, None]
    to_grey = luma.expand(3, 3)  # every row gives the luma
    matrix = (saturation * identity + (1 - saturation) * to_grey) @ turn * (brightness * contrast)[:, None, None]
    grey_share = brightness * (1 - contrast)
    matrix, grey_share = (each.to(images.device, non_blocking=True) for each in (matrix, grey_share))
    grey = (images.mean(dim=(2, 3)) * constant(LUMA, images.device)).sum(dim=1)
    offset = (grey_share * grey)[:, None, None].expand(n, 3, 1)
    return torch.baddbmm(offset, matrix, images.reshape(n, channels, -1)).view(n, channels, height, width)


def blur(images, masks, generator):
    """Blend a share of the samples with their 3x3 binomial blur."""
    n = len(images)
    amount = uniform(n, 0, 1, generator) * (uniform(n, 0, 1, generator) < BLUR)
    amount = amount.to(images.device, non_blocking=True)
    kernel = constant((0.25, 0.5, 0.25), images.device)
    kernel = (kernel[:, None] * kernel).expand(images.shape[1], 1, 3, 3)
    blurred = F.conv2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), kernel, groups=images.shape[1])
    return images.lerp(blurred, amount[:, None, None, None]), masks


def noise(images, masks, generator):
    """Add Gaussian noise whose strength is drawn per sample; half of the samples get none."""
    sigma = uniform(len(images), -NOISE, NOISE, generator).clamp(min=0).to(images.device, non_blocking=True)
    # The noise is drawn on the device, because sending a batch of it from the host takes too long.
    seed = int(torch.randint(2**31, (1,), generator=generator))
    normal = torch.empty_like(images).normal_(generator=torch.Generator(images.device).manual_seed(seed))
    return images + sigma[:, None, None, None] * normal, masks


MODES = {
    "none": (None, ()),
    "color": (None, (color,)),
    "full": (geometry, (color, blur, noise)),
    "wide": (wide_geometry, (surroundings, drawn_scene, color, blur, noise)),
}


def augment(images, masks, mode, generator, class_set=CELEBAMASK):
    """Turn a uint8 batch into the network's input and target.

    images: uint8 [N, 3, S, S]; masks: uint8 [N, S, S]; mode: one of MODES; generator: of the CPU, so that a seed gives
    the same batch on every device, noise excepted. Returns float32 images [N, 3, S, S] in [0, 1], channels last, and
    int64 masks [N, S, S].
    """
    images, masks = images.float() / 255, masks.long()
    move, changes = MODES[mode]
    if move:
        images, masks = move(images, masks, generator, class_set)
    for change in changes:
        images, masks = change(images, masks, generator)
    return images.clamp(0, 1).contiguous(memory_format=torch.channels_last), masks
