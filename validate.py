"""Parse photographs: write a label map per photograph, and overlays on demand.

    python validate.py                                         # shipped checkpoint, dataset/val/val_image
    python validate.py --image_dir me.jpg --save_visualizations
    python validate.py --checkpoint checkpoints/deeplab/best.pt --tta

Each prediction is a single-channel PNG of class ids at the photograph's own size, named by its stem.
"""

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch.nn import functional as F
from tqdm import tqdm

from color_visualization import overlay, write_picture
from dataset_utils import PhotoDataset, batches_of_equal_size, one_by_one
from faceparse import checkpoints as checkpoint
from faceparse.classes import flipped_class_ids
from faceparse.distributed import select_device
from faceparse.errors import run
from faceparse.images import (
    atomic_folder,
    list_images,
    read_photo,
    refuse_overwriting,
    refuse_overwriting_masks,
    write_label_map,
)
from faceparse.onnx_model import OnnxModel
from faceparse.upsampling import label_map, upsample
from models.folding import fold_batchnorm
from options import validate_parser

TTA_SCALES = (0.75, 1.0, 1.25)


def flip_and_scale_logits(model, photos):
    """Test-time augmentation: log of the mean probability over flip and TTA_SCALES. [N, 3, h, w] to [N, C, h, w]."""
    size, total = photos.shape[2:], 0
    for scale in TTA_SCALES:
        scaled_size = [max(32, round(side * scale)) for side in size]
        scaled = F.interpolate(photos, size=scaled_size, mode="bilinear", align_corners=False, antialias=True)
        logits = model(scaled)
        mirrored = model(scaled.flip(3)).flip(3)
        num_classes = mirrored.shape[1]
        mirrored = mirrored[:, flipped_class_ids(num_classes)[:num_classes]]  # their left is our right
        for each in (logits, mirrored):
            total = total + upsample(each.float(), size).softmax(dim=1)
    return (total / (2 * len(TTA_SCALES))).clamp(min=1e-30).log()


@torch.inference_mode()
def predict(model, paths, *, device, image_size, batch_size, workers, tta=False, progress="predicting"):
    """The one prediction loop: yield (index, logits float32 [C, h, w], (height, width)) per photograph, in order.

    h, w is the network's coarse size, (height, width) the photograph's own; `upsampling.label_map` brings the logits
    there. `model` is in eval mode. Photographs stream: memory does not grow with their number. Raises InputError for a
    file that is no photograph.
    """
    items = one_by_one(PhotoDataset(paths, image_size), workers)
    with tqdm(total=len(paths), desc=progress, unit="photo", leave=False, disable=None if progress else True) as bar:
        for indices, photos, sizes in batches_of_equal_size(items, batch_size):
            photos = photos.to(device).float().div(255).contiguous(memory_format=torch.channels_last)
            logits = flip_and_scale_logits(model, photos) if tta else model.coarse_logits(photos)
            yield from zip(indices, logits, sizes, strict=True)
            bar.update(len(indices))


def load_network(path, gpu_id):
    """Return what `predict` runs, and its device: a checkpoint's model made ready, or an .onnx file on the CPU."""
    if str(path).endswith(".onnx"):
        return OnnxModel(path), torch.device("cpu")
    device = select_device(gpu_id)
    return fold_batchnorm(checkpoint.load_model(path, device)).to(memory_format=torch.channels_last), device


def save_overlay(path, photo_path, labels):
    write_picture(path, overlay(read_photo(photo_path), labels))


def write_predictions(model, photos, output_dir, *, save_visualizations=False, **prediction_options):
    """Predict on {stem: path} and write OUTPUT_DIR/<stem>.png, all or none; `prediction_options` go to `predict`."""
    stems, paths = list(photos), list(photos.values())
    # Writing overlaps with the network; PNG compression releases the interpreter lock.
    with atomic_folder(output_dir) as unfinished, ThreadPoolExecutor(max_workers=2) as pool:
        writing = deque()
        for index, logits, size in predict(model, paths, **prediction_options):
            labels = label_map(logits, size)
            writing.append(pool.submit(write_label_map, unfinished / f"{stems[index]}.png", labels))
            if save_visualizations:
                overlay_path = unfinished / "overlays" / f"{stems[index]}.png"
                writing.append(pool.submit(save_overlay, overlay_path, paths[index], labels))
            while len(writing) > 32:  # a bound on what waits in memory
                writing.popleft().result()
        for each in writing:
            each.result()


def main(args):
    photos = list_images(args.image_dir)
    refuse_overwriting("--output_dir", args.output_dir, args.image_dir)
    refuse_overwriting_masks("--output_dir", args.output_dir, photos)
    model, device = load_network(args.checkpoint, args.gpu_id)
    write_predictions(
        model,
        photos,
        Path(args.output_dir),
        save_visualizations=args.save_visualizations,
        device=device,
        image_size=args.image_size or model.image_size,
        batch_size=args.batch_size,
        workers=args.workers,
        tta=args.tta,
    )
    print(f"{len(photos)} label maps in {args.output_dir}")


if __name__ == "__main__":
    run(lambda: main(validate_parser(__doc__).parse_args()))
