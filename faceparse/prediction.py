"""The one prediction loop: photographs, as paths or arrays, through a network to logits. Test-time augmentation too."""

import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm

from faceparse import checkpoints
from faceparse.distributed import select_device
from faceparse.images import read_photo
from faceparse.loading import ReadingDataset, one_by_one, resize_photo, to_tensor
from faceparse.onnx_model import OnnxModel
from faceparse.upsampling import upsample
from models.folding import fold_batchnorm

TTA_SCALES = (0.75, 1.0, 1.25)


def load_network(path, gpu_id, class_set=None):
    """Return what `predict` runs, and its device: a checkpoint's model made ready, or an .onnx file on the CPU.

    Both have the attributes `image_size`, the side that they were trained at in px, and `class_set`. Raises InputError
    as `checkpoints.load_model` and `OnnxModel` do, also where a `class_set` is given and the file has another.
    """
    if str(path).endswith(".onnx"):
        return OnnxModel(path, class_set), torch.device("cpu")
    device = select_device(gpu_id)
    model = checkpoints.load_model(path, device, class_set)
    return fold_batchnorm(model).to(memory_format=torch.channels_last), device


class PhotoDataset(ReadingDataset):
    """Photographs to predict on, of any size: (index, uint8 [3, h, w], (height, width) of the original).

    `photos` are paths or uint8 RGB arrays [H, W, 3]. The longer side becomes `image_size` and the shorter follows, so
    that faces keep their proportions.
    """

    def __init__(self, photos, image_size):
        self.photos, self.image_size = photos, image_size

    def __len__(self):
        return len(self.photos)

    def read(self, index):
        photo = self.photos[index]
        if not isinstance(photo, np.ndarray):
            photo = read_photo(photo)
        height, width = photo.shape[:2]
        scale = self.image_size / max(height, width)
        # At least 32 px, the least that the network takes.
        small = resize_photo(photo, max(32, round(width * scale)), max(32, round(height * scale)))
        return index, to_tensor(small), (height, width)


def batches_of_equal_size(loader, batch_size):
    """Group consecutive photographs of one size from a PhotoDataset: (indices, uint8 [N, 3, h, w], original sizes)."""
    batch = []
    for item in loader:
        if batch and (len(batch) == batch_size or batch[0][1].shape != item[1].shape):
            yield collate_photos(batch)
            batch = []
        batch.append(item)
    if batch:
        yield collate_photos(batch)


def collate_photos(batch):
    indices, photos, sizes = zip(*batch, strict=True)
    return indices, torch.stack(photos), sizes


def flip_and_scale_logits(model, photos):
    """Test-time augmentation: log of the mean probability over flip and TTA_SCALES. [N, 3, h, w] to [N, C, h, w]."""
    size, total = photos.shape[2:], 0
    for scale in TTA_SCALES:
        scaled_size = [max(32, round(side * scale)) for side in size]
        scaled = F.interpolate(photos, size=scaled_size, mode="bilinear", align_corners=False, antialias=True)
        logits = model(scaled)
        mirrored = model(scaled.flip(3)).flip(3)
        mirrored = mirrored[:, model.class_set.flipped_ids()[: len(model.class_set)]]  # their left is our right
        for each in (logits, mirrored):
            total = total + upsample(each.float(), size).softmax(dim=1)
    return (total / (2 * len(TTA_SCALES))).clamp(min=1e-30).log()


@torch.inference_mode()
def predict(model, photos, *, device, image_size, batch_size, workers, tta=False, progress="predicting"):
    """The one prediction loop: yield (index, logits float32 [C, h, w], (height, width)) per photograph, in order.

    h, w is the network's coarse size, (height, width) the photograph's own; `upsampling.label_map` brings the logits
    there. `model` is in eval mode. `photos` is a list of paths or of uint8 RGB arrays [H, W, 3], a mixture too; they
    stream, so memory does not grow with their number. Raises InputError for a file that is no photograph.
    """
    items = one_by_one(PhotoDataset(photos, image_size), workers)
    with tqdm(total=len(photos), desc=progress, unit="photo", leave=False, disable=None if progress else True) as bar:
        for indices, batch, sizes in batches_of_equal_size(items, batch_size):
            batch = batch.to(device).float().div(255).contiguous(memory_format=torch.channels_last)
            logits = flip_and_scale_logits(model, batch) if tta else model.coarse_logits(batch)
            yield from zip(indices, logits, sizes, strict=True)
            bar.update(len(indices))
