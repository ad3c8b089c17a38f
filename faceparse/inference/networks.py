"""Networks from .pt and .onnx files, ready to predict on numpy arrays. Torch is imported when a .pt is opened.

A network has
    class_set: its ClassSet.
    image_size: the side of the photographs that it was trained on, px.
    batch_size: how many photographs at a time are fastest. Larger batches are no faster on a CPU.
    coarse_logits(photos): logits [N, C, h, w] at the decoder's stride for photographs [N, 3, H, W] in [0, 1], both
        float32 arrays. H and W are multiples of image_size.STRIDE.
"""

import json
from pathlib import Path

import numpy as np

from faceparse.data.classes import agreed_class_set, class_set_from_dict
from faceparse.errors import InputError, first_line
from faceparse.inference.image_size import checked_image_size


def load_network(path, gpu_id=0, class_set=None):
    """Return the network of a checkpoint, on the GPU if there is CUDA, or of an .onnx file, on the CPU.

    Raises InputError as `OnnxNetwork`, `checkpoints.load_model` and `select_device` do.
    """
    if str(path).endswith(".onnx"):
        return OnnxNetwork(path, class_set)
    try:
        import torch

        from faceparse.inference import checkpoints, device
        from models.folding import fold_batchnorm
    except ImportError as error:
        what = f"a .pt needs the repository and its requirements.txt ({error})"
        raise InputError(f"{path}: {what}; take a file of export_onnx.py") from None
    device.keep_freed_memory()
    chosen = device.select_device(gpu_id)
    model = fold_batchnorm(checkpoints.load_model(path, chosen, class_set))
    return TorchNetwork(model.to(memory_format=torch.channels_last), chosen)


def say_device(network):
    """Print, for a script, that a PyTorch network computes on the CPU."""
    if isinstance(network, TorchNetwork):
        from faceparse.inference import device

        device.say_device(network.device)


class TorchNetwork:
    """A model of models/ in eval mode, with attributes `class_set` and `image_size`, on a torch device."""

    def __init__(self, model, device):
        self.model, self.device = model, device
        self.image_size, self.class_set = model.image_size, model.class_set
        self.batch_size = 1 if device.type == "cpu" else 8

    def coarse_logits(self, photos):
        import torch

        return self.coarse_logits_tensor(torch.from_numpy(photos).to(self.device)).cpu().numpy()

    def coarse_logits_tensor(self, photos):
        """`coarse_logits` of a tensor on the device, which stays there."""
        import torch

        with torch.inference_mode():
            return self.model.coarse_logits(photos.contiguous(memory_format=torch.channels_last)).float()


class OnnxNetwork:
    """A file of export_onnx.py, run by ONNX Runtime, which is an optional extra."""

    batch_size = 1

    def __init__(self, path, class_set=None):
        """Open the file. Raises InputError unless export_onnx.py wrote it, with the `class_set` if one is given."""
        try:
            import onnxruntime
        except ImportError:
            raise InputError(f"{path}: needs ONNX Runtime; pip install onnxruntime") from None
        if not Path(path).is_file():
            raise InputError(f"{path}: no such file; write one with export_onnx.py")
        options = onnxruntime.SessionOptions()
        # Its threads would spin between two photographs, and take the cores from whoever works there.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            metadata = self.session.get_modelmeta().custom_metadata_map
        except Exception as error:  # ONNX Runtime's own exception types have no common public base
            raise InputError(f"{path}: not a readable ONNX file ({first_line(error)})") from None
        try:
            description, image_size = json.loads(metadata["classes"]), int(metadata["image_size"])
        except (KeyError, ValueError, RecursionError):
            raise InputError(f"{path}: not a network that export_onnx.py wrote; export it again") from None
        if all(isinstance(side, int) for side in self.session.get_inputs()[0].shape):
            what = "takes photographs of one size alone, and the scripts need any"
            raise InputError(f"{path}: {what}; export it without --fixed and --layout")
        self.class_set = agreed_class_set(class_set_from_dict(description, path), class_set, path)
        self.image_size = checked_image_size(image_size, path)
        self.path = path

    def coarse_logits(self, photos):
        try:
            logits = self.session.run(["logits"], {"photos": np.ascontiguousarray(photos)})[0]
        except Exception as error:  # as above
            raise InputError(f"{self.path}: cannot be run ({first_line(error)}); export it again") from None
        if logits.ndim != 4 or logits.shape[1] != len(self.class_set) or not np.isfinite(logits).all():
            what = f"no finite logits of its {len(self.class_set)} classes"
            raise InputError(f"{self.path}: returns {what}; export it again")
        return logits
