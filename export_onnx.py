"""Write a checkpoint's network as an ONNX file, for prediction on the CPU with ONNX Runtime.

    pip install -r requirements-onnx.txt
    python export_onnx.py --checkpoint checkpoints/deeplab/best.pt --output face_parser.onnx
    python validate.py --checkpoint face_parser.onnx

Input `photos`: float32 [N, 3, H, W], RGB in [0, 1], any N, H, W. Output `logits`: float32 [N, classes, h, w] at the
decoder's stride; bilinear upsampling and an argmax give the labels. The class names and the image size of the
training are in the file's metadata.
"""

import json

import torch
from torch import nn

import checkpoint
from classes import CLASS_NAMES
from errors import InputError, run
from image_io import atomic_path
from models.folding import fold_batchnorm
from onnx_model import INSTALL_HINT, OnnxModel
from options import export_parser

TOLERANCE = 1e-3  # of logits whose range is some tens


class CoarseLogits(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, photos):
        return self.model.coarse_logits(photos)


def export(model, path, metadata):
    """Write the ONNX file of a model in eval mode; `metadata` is a dict of str."""
    dynamic = torch.export.Dim.DYNAMIC
    program = torch.onnx.export(
        CoarseLogits(model).eval(),
        (torch.rand(2, 3, 96, 128),),
        input_names=["photos"],
        output_names=["logits"],
        dynamic_shapes=({0: dynamic, 2: dynamic, 3: dynamic},),
        dynamo=True,
        verbose=False,
    )
    program.model.metadata_props.update(metadata)
    program.save(path)


def largest_difference(model, onnx_model):
    """Between the logits of both, over batches and sizes that the export has not seen."""
    differences = []
    for shape in ((1, 3, 512, 512), (3, 3, 65, 130)):
        photos = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            expected = model.coarse_logits(photos)
        differences.append((onnx_model.coarse_logits(photos) - expected).abs().max().item())
    return max(differences)


def main(args):
    try:
        import onnxscript  # noqa: F401  what torch.onnx.export needs
    except ImportError:
        raise InputError(f"export_onnx.py needs onnx, onnxscript and onnxruntime; {INSTALL_HINT}") from None
    model = fold_batchnorm(checkpoint.load_model(args.checkpoint))
    num_classes = len(model(torch.zeros(1, 3, 32, 32))[0])
    metadata = {"image_size": str(model.image_size), "class_names": json.dumps(CLASS_NAMES[:num_classes])}
    with atomic_path(args.output) as temporary:
        export(model, temporary, metadata)
        difference = largest_difference(model, OnnxModel(temporary))
        if difference > TOLERANCE:
            raise InputError(f"{args.output}: not written, its logits differ from PyTorch's by {difference:.2g}")
    print(f"{args.output}: written; its logits differ from PyTorch's by at most {difference:.1g}")


if __name__ == "__main__":
    run(lambda: main(export_parser(__doc__).parse_args()))
