"""Test-time augmentation: the mean of a network's predictions over flip and scales."""

import torch
from torch.nn import functional as F

from faceparse.inference.image_size import MIN_SIDE

TTA_SCALES = (0.75, 1.0, 1.25)


class FlipAndScale:
    """Wraps a network, and gives the log of the mean probability over flip and TTA_SCALES in place of its logits."""

    def __init__(self, network):
        self.network, self.class_set = network, network.class_set
        self.device = getattr(network, "device", "cpu")  # what lies between the network's passes is computed there too

    def coarse_logits(self, photos):
        """Take photographs [N, 3, H, W] in [0, 1], return log-probabilities [N, C, H, W] at their size; float32."""
        size, total = photos.shape[2:], 0
        photos = torch.from_numpy(photos).to(self.device)
        flipped_ids = self.class_set.flipped_ids()[: len(self.class_set)]
        for scale in TTA_SCALES:
            scaled_size = [max(MIN_SIDE, round(side * scale)) for side in size]
            scaled = F.interpolate(photos, size=scaled_size, mode="bilinear", align_corners=False, antialias=True)
            logits = self._logits(scaled)
            mirrored = self._logits(scaled.flip(3)).flip(3)[:, flipped_ids]  # Their left is our right.
            for each in (logits, mirrored):
                resized = F.interpolate(each, size=tuple(size), mode="bilinear", align_corners=False)
                total = total + resized.softmax(dim=1)
        return (total / (2 * len(TTA_SCALES))).clamp(min=1e-30).log().cpu().numpy()

    def _logits(self, photos):
        if hasattr(self.network, "coarse_logits_tensor"):
            return self.network.coarse_logits_tensor(photos)
        return torch.from_numpy(self.network.coarse_logits(photos.numpy()))
