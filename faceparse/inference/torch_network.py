"""A PyTorch model, made ready to predict on numpy arrays."""

import torch

from faceparse.inference import checkpoints
from faceparse.inference.device import keep_freed_memory, select_device
from models.folding import fold_batchnorm


class TorchNetwork:
    """A model in eval mode on a device.

    image_size: the side of the photographs that it was trained on, in px.
    class_set: its ClassSet.
    device: where it computes.
    batch_size: how many photographs at a time are fastest. Larger batches are no faster on a CPU.
    """

    def __init__(self, model, device):
        self.model, self.device = model, device
        self.image_size, self.class_set = model.image_size, model.class_set
        self.batch_size = 1 if device.type == "cpu" else 8

    def coarse_logits(self, photos):
        """Return logits [N, C, h, w] at the decoder's stride for photographs [N, 3, H, W] in [0, 1], both float32."""
        return self.coarse_logits_tensor(torch.from_numpy(photos).to(self.device)).cpu().numpy()

    @torch.inference_mode()
    def coarse_logits_tensor(self, photos):
        """The same for tensors on the device."""
        return self.model.coarse_logits(photos.contiguous(memory_format=torch.channels_last)).float()


def load_torch_network(path, gpu_id=0, class_set=None):
    """Rebuild the network of a checkpoint on the GPU, or on the CPU where there is no CUDA.

    Raises InputError as `checkpoints.load_model` and `select_device` do.
    """
    keep_freed_memory()
    device = select_device(gpu_id)
    model = checkpoints.load_model(path, device, class_set)
    return TorchNetwork(fold_batchnorm(model).to(memory_format=torch.channels_last), device)
