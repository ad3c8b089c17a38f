"""Plain prediction and training: PIL and per-sample transforms, float32, NCHW, batch by batch.

Prediction is the challenge's own way; training is the loop of torchvision's references, with two worker processes.

    python -m benchmarks.plain_network CHECKPOINT IMAGE_DIR OUTPUT_DIR IMAGE_SIZE    # predicts, 32 at a time
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import ColorJitter
from torchvision.transforms.functional import to_tensor

from faceparse.data.images import list_images
from faceparse.inference import checkpoints
from faceparse.inference.device import select_device


def read_photo(path, size):
    return Image.open(path).convert("RGB").resize((size, size), Image.Resampling.BILINEAR)


@torch.no_grad()
def predict(model, photos, output_dir, *, image_size, batch_size, device):
    """Write a label map, at the network's input size, for each of {stem: path}."""
    output_dir.mkdir(parents=True, exist_ok=True)
    stems = list(photos)
    for start in range(0, len(stems), batch_size):
        batch = stems[start : start + batch_size]
        inputs = torch.stack([to_tensor(read_photo(photos[stem], image_size)) for stem in batch])
        labels = model(inputs.to(device)).argmax(dim=1).cpu().numpy().astype(np.uint8)
        for stem, label_map in zip(batch, labels, strict=True):
            Image.fromarray(label_map).save(output_dir / f"{stem}.png")


class Pairs(Dataset):
    def __init__(self, pairs, image_size):
        self.pairs, self.image_size = pairs, image_size
        self.jitter = ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2)

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        _, photo_path, mask_path = self.pairs[index]
        mask = Image.open(mask_path).resize((self.image_size, self.image_size), Image.Resampling.NEAREST)
        return to_tensor(self.jitter(read_photo(photo_path, self.image_size))), torch.from_numpy(np.array(mask)).long()


def mixed_loss(logits, target):
    """Return the challenge's loss: 0.4 (0.1 focal + 0.9 cross-entropy) + 0.6 Dice."""
    cross_entropy = F.cross_entropy(logits, target)
    of_pixels = F.cross_entropy(logits, target, reduction="none")
    focal = ((1 - (-of_pixels).exp()) ** 2 * of_pixels).mean()
    probabilities = logits.softmax(dim=1)
    one_hot = F.one_hot(target, logits.shape[1]).permute(0, 3, 1, 2).float()
    intersection = (probabilities * one_hot).sum(dim=(0, 2, 3))
    dice = (2 * intersection + 1e-6) / (probabilities.sum(dim=(0, 2, 3)) + one_hot.sum(dim=(0, 2, 3)) + 1e-6)
    return 0.4 * (0.1 * focal + 0.9 * cross_entropy) + 0.6 * (1 - dice.mean())


def train(model, pairs, *, image_size, batch_size, device):
    """Train an epoch; return images a second."""
    optimizer = torch.optim.Adam(model.parameters(), weight_decay=1e-5)
    model.train()
    loader = DataLoader(Pairs(pairs, image_size), batch_size, shuffle=True, drop_last=True, num_workers=2)
    start = time.perf_counter()
    for photos, masks in loader:
        loss = mixed_loss(model(photos.to(device)), masks.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return len(loader) * batch_size / (time.perf_counter() - start)


def main():
    checkpoint, image_dir, output_dir, image_size = sys.argv[1:]
    device = select_device(0)
    model = checkpoints.load_model(checkpoint, device)
    options = {"image_size": int(image_size), "batch_size": 32, "device": device}
    predict(model, list_images(image_dir), Path(output_dir), **options)


if __name__ == "__main__":
    main()
