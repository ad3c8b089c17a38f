"""The one prediction loop: photographs, as paths or arrays, through a network to logits. Needs no torch for .onnx."""

from functools import partial

import numpy as np
from tqdm import tqdm

from faceparse.data.images import read_photo, resize_photo
from faceparse.errors import InputError
from faceparse.inference.image_size import fitted_size
from faceparse.parallel import in_threads


def predict(network, photos, *, image_size, batch_size, workers, tta=False, progress="predicting"):
    """Yield (index, logits float32 [C, h, w], (height, width)) per photograph, in order.

    h, w is the network's coarse size, (height, width) the photograph's own; `upsampling.label_map` brings the logits
    there. `photos` is a list of paths or of uint8 RGB arrays [H, W, 3], a mixture too; `workers` threads read them, as
    they are needed, so memory does not grow with their number. Raises InputError for a file that is no photograph.
    """
    if tta:
        try:
            from faceparse.inference.tta import FlipAndScale  # here, because it imports torch
        except ImportError:
            raise InputError("--tta needs PyTorch; pip install -r requirements.txt") from None
        network = FlipAndScale(network)
    items = in_threads(partial(read_resized, image_size=image_size), enumerate(photos), workers)
    with tqdm(total=len(photos), desc=progress, unit="photo", leave=False, disable=None if progress else True) as bar:
        for batch in batches_of_equal_size(items, batch_size):
            indices, resized, sizes = zip(*batch, strict=True)
            yield from zip(indices, network.coarse_logits(to_network_input(resized)), sizes, strict=True)
            bar.update(len(batch))


def read_resized(item, image_size):
    """Return (index, photograph, its own (height, width)) of an item (index, path or uint8 RGB array [H, W, 3]).

    The photograph comes as uint8 [h, w, 3] of `fitted_size`: faces keep their proportions, to a few px.
    """
    index, photo = item
    if not isinstance(photo, np.ndarray):
        photo = read_photo(photo)
    return index, resize_photo(photo, *fitted_size(photo.shape, image_size)), photo.shape[:2]


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
