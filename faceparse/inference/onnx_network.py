"""A network in an ONNX file, run by ONNX Runtime. An optional extra; needs neither torch nor torchvision."""

import json
from pathlib import Path

import numpy as np

from faceparse.data.classes import agreed_class_set, class_set_from_dict
from faceparse.errors import InputError, first_line
from faceparse.inference.image_size import checked_image_size


class OnnxNetwork:
    """A file of export_onnx.py. It has the attributes of TorchNetwork."""

    batch_size = 1

    def __init__(self, path, class_set=None):
        """Open the file.

        Raises InputError if ONNX Runtime or the file is missing, if the file was not written by export_onnx.py, and if
        a `class_set` is given and the file has another.
        """
        try:
            import onnxruntime
        except ImportError:
            raise InputError(f"{path}: needs ONNX Runtime; pip install -r requirements-onnx.txt") from None
        if not Path(path).is_file():
            raise InputError(f"{path}: no such file; write one with export_onnx.py")
        try:
            self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            metadata = self.session.get_modelmeta().custom_metadata_map
        except Exception as error:  # ONNX Runtime's own exception types have no common public base
            raise InputError(f"{path}: not a readable ONNX file ({first_line(error)})") from None
        names = [each.name for each in [*self.session.get_inputs(), *self.session.get_outputs()]]
        if names == ["photos", "labels"]:
            raise InputError(f"{path}: gives label maps, and the scripts need logits; export it without --labels")
        if names != ["photos", "logits"] or not {"image_size", "classes"} <= metadata.keys():
            raise InputError(f"{path}: not a network that this version of export_onnx.py wrote; export it again")
        try:
            description, image_size = json.loads(metadata["classes"]), int(metadata["image_size"])
        except (ValueError, RecursionError):
            raise InputError(f"{path}: its metadata are damaged; export it again") from None
        self.class_set = agreed_class_set(class_set_from_dict(description, path), class_set, path)
        self.image_size = checked_image_size(image_size, path)
        self.path = path

    def coarse_logits(self, photos):
        """Return logits [N, C, h, w] at the decoder's stride for photographs [N, 3, H, W] in [0, 1], both float32."""
        try:
            logits = self.session.run(["logits"], {"photos": np.ascontiguousarray(photos)})[0]
        except Exception as error:  # as above
            raise InputError(f"{self.path}: cannot be run ({first_line(error)}); export it again") from None
        if logits.ndim != 4 or logits.shape[:2] != (len(photos), len(self.class_set)):
            raise InputError(f"{self.path}: returns {list(logits.shape)}, no logits of its classes; export it again")
        if not np.isfinite(logits).all():
            raise InputError(f"{self.path}: returns values that are not finite; export it again")
        return logits
