"""A network in an ONNX file, run by ONNX Runtime in place of a PyTorch model. An optional extra."""

import json
from pathlib import Path

import torch

from faceparse.classes import class_set_from_dict, require_class_set
from faceparse.errors import InputError
from faceparse.upsampling import upsample

INSTALL_HINT = "pip install -r requirements-onnx.txt"


class OnnxModel:
    """Takes and gives what the models do: photographs float32 [N, 3, H, W] in [0, 1], logits float32.

    Its attribute `image_size` is the side, in px, that the network was trained at; `class_set` are its classes.
    """

    def __init__(self, path, class_set=None):
        """Raises InputError where ONNX Runtime or the file is missing, or the file is not one of export_onnx.py.

        The same where a `class_set` is given and the file has another.
        """
        try:
            import onnxruntime
        except ImportError:
            raise InputError(f"{path}: needs ONNX Runtime; {INSTALL_HINT}") from None
        if not Path(path).is_file():
            raise InputError(f"{path}: no such file; write one with export_onnx.py")
        try:
            self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's own exception types have no common public base
            raise InputError(f"{path}: not a readable ONNX file ({str(error).splitlines()[0]})") from None
        metadata = self.session.get_modelmeta().custom_metadata_map
        names = [each.name for each in self.session.get_inputs()]
        if names != ["photos"] or not {"image_size", "classes"} <= metadata.keys():
            raise InputError(f"{path}: not a network of this version of export_onnx.py; export it again")
        self.class_set = class_set_from_dict(json.loads(metadata["classes"]), path)
        require_class_set(self.class_set, class_set, path)
        self.image_size = int(metadata["image_size"])

    def coarse_logits(self, photos):
        return torch.from_numpy(self.session.run(["logits"], {"photos": photos.contiguous().numpy()})[0])

    def __call__(self, photos):
        return upsample(self.coarse_logits(photos), photos.shape[2:])
