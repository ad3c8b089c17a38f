"""Trained networks whose mean probabilities another one learns."""

import torch

from faceparse.errors import InputError
from faceparse.inference import checkpoints
from models.folding import fold_batchnorm


class Teachers:
    """The networks of several checkpoints of `class_set`, trained at the student's `image_size`, px.

    Raises InputError as `checkpoints.load_model` does, and for a network of another image size.
    """

    def __init__(self, paths, class_set, image_size, device):
        networks = [checkpoints.load_model(path, device, class_set) for path in paths]
        for path, network in zip(paths, networks, strict=True):
            if network.image_size != image_size:
                raise InputError(f"--teacher {path}: needs --image_size {network.image_size}, at which it was trained")
        self.networks = [fold_batchnorm(network).to(memory_format=torch.channels_last) for network in networks]

    @torch.no_grad()
    def probabilities(self, photos):
        """Return the mean of their probabilities, float32 [N, C, H, W], for photographs [N, 3, H, W] in [0, 1]."""
        return sum(network(photos).softmax(dim=1) for network in self.networks) / len(self.networks)
