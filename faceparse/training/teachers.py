"""Trained networks whose mean probabilities another one learns."""

import torch

from faceparse.errors import InputError
from faceparse.inference import checkpoints
from models.folding import fold_batchnorm


class Teachers:
    """The networks of several checkpoints, on a device, in eval mode.

    Raises InputError as `checkpoints.load_model` does, also where one has other classes than `class_set`, and where one
    was not trained at `image_size` px, that of the student.
    """

    def __init__(self, paths, class_set, image_size, device):
        self.networks = []
        for path in paths:
            network = checkpoints.load_model(path, device, class_set)
            if network.image_size != image_size:
                raise InputError(
                    f"{path}: was trained at {network.image_size} px and parses well at that size alone; "
                    f"as --teacher it needs --image_size {network.image_size}"
                )
            self.networks.append(fold_batchnorm(network).to(memory_format=torch.channels_last))

    @torch.no_grad()
    def probabilities(self, photos):
        """Return the mean of the networks' probabilities, float32 [N, C, H, W].

        photos: float32 [N, 3, H, W] in [0, 1], on the device.
        """
        return sum(network(photos).softmax(dim=1) for network in self.networks) / len(self.networks)
