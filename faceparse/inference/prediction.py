"""From photographs through a network to logits, the one loop that all scripts use, and from logits to label maps.

Needs no torch but for test-time augmentation.
"""

from functools import partial

import numpy as np
from tqdm import tqdm

from faceparse.data.images import read_photo, resize
from faceparse.errors import InputError
from faceparse.inference.image_size import fitted_size, round_to_stride
from faceparse.parallel import in_threads

TTA_SCALES = (0.75, 1.0, 1.25)


def predict(network, photos, *, image_size, batch_size, workers, tta=False, progress="predicting"):
    """Yield (index, logits float32 [C, h, w], (height, width)) per photograph, in order.

    h, w is the network's coarse size, (height, width) the photograph's own; `label_map` brings the logits
    there. `photos` is a list of paths or of uint8 RGB arrays [H, W, 3], a mixture too; `workers` threads read them, as
    they are needed, so memory does not grow with their number. Raises InputError for a file that is not a photograph.
    """
    network = FlipAndScale(network) if tta else network
    items = in_threads(partial(read_resized, image_size=image_size), enumerate(photos), workers)
    with tqdm(total=len(photos), desc=progress, unit="photo", leave=False, disable=None if progress else True) as bar:
        for batch in batches_of_equal_size(items, batch_size):
            indices, resized, sizes = zip(*batch, strict=True)
            yield from zip(indices, network.coarse_logits(to_network_input(resized)), sizes, strict=True)
            bar.update(len(batch))


def read_resized(item, image_size):
    """Return (index, photograph at `fitted_size`, its own (height, width)) of an item (index, path or array)."""
    index, photo = item
    if not isinstance(photo, np.ndarray):
        photo = read_photo(photo)
    return index, resize(photo, *fitted_size(photo.shape, image_size)), photo.shape[:2]


def batches_of_equal_size(items, batch_size):
    """Group consecutive items of `read_resized` whose photographs have one size into lists of at most `batch_size`."""
    batch = []
    for item in items:
        if batch and (len(batch) == batch_size or batch[0][1].shape != item[1].shape):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def to_network_input(photos):
    """uint8 photographs [h, w, 3] of one size to float32 [N, 3, h, w] in [0, 1], channels last in memory."""
    return np.stack(photos).astype(np.float32).transpose(0, 3, 1, 2) / np.float32(255)


class FlipAndScale:
    """Wraps a network, and gives the log of the mean probability over flip and TTA_SCALES in place of its logits."""

    def __init__(self, network):
        try:
            import torch  # here, because a network of an .onnx file needs it for this alone
        except ImportError:
            raise InputError("--tta needs PyTorch; pip install -r requirements.txt") from None
        self.torch, self.network, self.class_set = torch, network, network.class_set
        self.device = getattr(network, "device", "cpu")  # what lies between the network's passes is computed there too

    def coarse_logits(self, photos):
        """Take photographs [N, 3, H, W] in [0, 1], return log-probabilities [N, C, H, W] at their size; float32."""
        size, total, resize = tuple(photos.shape[2:]), 0, self.torch.nn.functional.interpolate
        photos = self.torch.from_numpy(photos).to(self.device)
        flipped_ids = self.class_set.flipped_ids()[: len(self.class_set)]
        for scale in TTA_SCALES:
            scaled_size = [round_to_stride(side * scale) for side in size]
            scaled = resize(photos, size=scaled_size, mode="bilinear", align_corners=False, antialias=True)
            logits = self._logits(scaled)
            mirrored = self._logits(scaled.flip(3)).flip(3)[:, flipped_ids]  # Their left is our right.
            for each in (logits, mirrored):
                total = total + resize(each, size=size, mode="bilinear", align_corners=False).softmax(dim=1)
        return (total / (2 * len(TTA_SCALES))).clamp(min=1e-30).log().cpu().numpy()

    def _logits(self, photos):
        if hasattr(self.network, "coarse_logits_tensor"):
            return self.network.coarse_logits_tensor(photos)
        return self.torch.from_numpy(self.network.coarse_logits(photos.numpy()))


def upsample(logits, size, rows=slice(None)):
    """Bilinear, align_corners False: float32 [C, h, w] to [C, height, width], or to the slice `rows` of its rows."""
    top, bottom, weight_y = (each[rows] for each in source_positions(logits.shape[1], size[0]))
    left, right, weight_x = source_positions(logits.shape[2], size[1])
    rows = lerp(logits[:, top], logits[:, bottom], weight_y[:, None])
    return lerp(rows[:, :, left], rows[:, :, right], weight_x)


def lerp(start, end, weight):
    result = end - start
    result *= weight  # in place, which halves the memory
    result += start
    return result


def source_positions(size, target_size):
    """Where bilinear interpolation reads along one side: the index below, the next, and its weight, [target_size]."""
    position = (np.arange(target_size, dtype=np.float32) + 0.5) * np.float32(size / target_size) - 0.5
    position = position.clip(0, size - 1)
    below = position.astype(np.intp)
    return below, np.minimum(below + 1, size - 1), position - below.astype(np.float32)


def label_map(logits, size):
    """Class ids, uint8 [height, width]: the argmax of `upsample(logits, size)` of logits [C, h, w].

    Where the four logits around a pixel have the same largest class, every weighted mean has it too. Only the other
    pixels, those along the outlines, are interpolated.
    """
    (channels, h, w), (height, width) = logits.shape, size
    by_pixel = logits.transpose(1, 2, 0).reshape(h * w, channels)  # The argmax over adjacent numbers is far faster.
    coarse = by_pixel.argmax(axis=1).astype(np.uint8).reshape(h, w)
    if (h, w) == (height, width):
        return coarse
    below, right = coarse[[*range(1, h), h - 1]], coarse[:, [*range(1, w), w - 1]]
    below_right = below[:, [*range(1, w), w - 1]]
    is_outline = (coarse != below) | (coarse != right) | (coarse != below_right)

    top, bottom, weight_y = source_positions(h, height)
    left, right, weight_x = source_positions(w, width)
    labels = coarse[top[:, None], left]
    rows, columns = np.nonzero(is_outline[top[:, None], left])
    top, bottom, left, right = top[rows] * w, bottom[rows] * w, left[columns], right[columns]
    weight_x = weight_x[columns, None]
    above = lerp(by_pixel[top + left], by_pixel[top + right], weight_x)
    below = lerp(by_pixel[bottom + left], by_pixel[bottom + right], weight_x)
    labels[rows, columns] = lerp(above, below, weight_y[rows, None]).argmax(axis=1)
    return labels
