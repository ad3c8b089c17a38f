"""Write a checkpoint's network as an ONNX file, for prediction on the CPU with ONNX Runtime.

    pip install -e ".[export]"
    python export_onnx.py --checkpoint checkpoints/deeplab/best.pt --output face_parser.onnx
    python validate.py --checkpoint face_parser.onnx
    python export_onnx.py --float16 --output web/face_parser.onnx
    python export_onnx.py --int8 dataset/train/train_image --output face_parser_int8.onnx
    python export_onnx.py --layout bisenet --output resnet18.onnx    # for programs that load that network
    python export_onnx.py --fixed --image_size 256 --output fixed.onnx    # to convert further

Input `photos`: float32 [N, 3, H, W], RGB in [0, 1], any N, H and W multiples of 16 (others shift the labels). Output
`logits`: float32 [N, classes, h, w] at the decoder's stride; bilinear upsampling and an argmax give the labels. The
classes and the image size of the training are in the file's metadata.

With `--float16` the file is half as large and computes in float32 all the same, so that it runs wherever the float32
file does; the page in `web/` loads it. With `--int8` weights and activations are 8-bit integers inside; their ranges
are those seen on some photographs of the folder. That pays on CPUs with VNNI instructions (Intel Ice Lake, AMD Zen 4,
and later). Without them sums of 8-bit products saturate on an x86 CPU, so the weights get 7 bits there.

With `--layout bisenet` the file takes the place of those of zllrunning's and yakhyo's face-parsing: `input` float32
[1, 3, S, S] normalised by ImageNet's mean and deviation, S = 512 as in those unless --image_size says another; `output`
float32 [1, 19, S, S], logits in their order of the classes.

With `--fixed` the input is float32 [1, 3, S, S] alone, S of `--image_size`, in operators of opset 17 that Core ML,
TensorFlow Lite, OpenVINO and OpenCV's dnn module have too.
"""

import json
import platform
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from faceparse.data.classes import BISENET, find_class_set
from faceparse.data.images import list_images
from faceparse.errors import InputError, counted, run_script
from faceparse.files import atomic_path
from faceparse.inference import checkpoints
from faceparse.inference.image_size import round_to_stride
from faceparse.inference.networks import OnnxNetwork, TorchNetwork
from faceparse.inference.prediction import read_resized, to_network_input
from models.folding import fold_batchnorm
from options import export_parser

TOLERANCE = 1e-3  # of logits whose range is some tens
FLOAT16_TOLERANCE = 1  # weights rounded to 11 bits
CALIBRATION_PHOTOS = 32  # and as many others to compare labels on
FIXED_OPSET = 17  # converters and older programs do not know later ones
BISENET_SIZE = 512  # px
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
MAX_CHANGED_BY_INT8 = 0.02  # share of the labels


class CoarseLogits(nn.Module):
    """Makes `coarse_logits` the forward pass, which is what torch.onnx.export exports."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, photos):
        return self.model.coarse_logits(photos)


class BiSeNetLayout(CoarseLogits):
    """Takes photographs normalised as ImageNet's, and gives logits at input size in the order of BISENET."""

    def __init__(self, model):
        super().__init__(model)
        ids = [model.class_set.id_of(name, "--layout bisenet:") for name in BISENET.names]
        *_, last = (module for module in model.modules() if isinstance(module, nn.Conv2d))
        last.weight.data, last.bias.data = last.weight.data[ids], last.bias.data[ids]
        self.mean, self.deviation = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, DEVIATION))

    def forward(self, photos):
        # Not folded into the first convolution: its zero padding would then be of another colour than black.
        return self.model(photos * self.deviation + self.mean)


def export(module, path, names, metadata, size=None):
    """Write the ONNX file of a module above: names of input and output, metadata a dict of str, a fixed size or any."""
    dynamic = torch.export.Dim.DYNAMIC
    program = torch.onnx.export(
        module.eval(),
        (torch.rand(1, 3, size, size) if size else torch.rand(2, 3, 96, 128),),
        input_names=names[:1],
        output_names=names[1:],
        dynamic_shapes=None if size else ({0: dynamic, 2: dynamic, 3: dynamic},),
        dynamo=True,
        verbose=False,
    )
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces of the export, with the paths of the machine it ran on
        node.attributes.pop("noop_with_empty_axes", None)  # its default; opset 17 does not know it
    program.model.metadata_props.update(metadata)
    program.save(path)


def write_bisenet(model, path, metadata):
    """Write the file of --layout bisenet; return what came of it."""
    photos = random_photos(1, 3, model.image_size, model.image_size)
    ids = [model.class_set.id_of(name) for name in BISENET.names]
    with torch.inference_mode():
        expected = model.eval()(photos)[:, ids]
    export(BiSeNetLayout(model), path, ["input", "output"], metadata, model.image_size)
    normalised = (photos - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(DEVIATION).view(3, 1, 1)
    return require_close(path, [(normalised, expected)])


def write_fixed(model, path, metadata):
    """Write the file of --fixed; return what came of it."""
    from onnx import load, save, version_converter

    photos = random_photos(1, 3, model.image_size, model.image_size)
    export(CoarseLogits(model), path, ["photos", "logits"], metadata, model.image_size)
    save(version_converter.convert_version(load(path), FIXED_OPSET), path)
    return require_close(path, expected_logits(model, [photos]))


def random_photos(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def expected_logits(model, batches):
    """Return (photographs, the model's logits of them) for each batch."""
    with torch.inference_mode():
        return [(photos, model.eval().coarse_logits(photos)) for photos in batches]


def require_close(path, expected, tolerance=TOLERANCE):
    """Return how far a file's logits are from those `expected` of photographs at most; InputError if too far."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (name,) = (each.name for each in session.get_inputs())
    found = [session.run(None, {name: photos.numpy()})[0] for photos, _ in expected]
    pairs = zip(found, expected, strict=True)
    difference = np.max([np.abs(ours - logits.numpy()).max() for ours, (_, logits) in pairs])
    if not difference <= tolerance:  # NaN too
        raise InputError(f"not written, its logits differ from PyTorch's by {difference:.2g}")
    return f"its logits differ from PyTorch's by at most {difference:.1g}"


def write_int8(network, path, photos):
    """Turn a float32 file into int8, in place; return what came of it.

    Half of the photographs, a list of float32 [1, 3, h, w] in [0, 1], calibrate it, the others compare its labels.
    """
    from onnxruntime.quantization import QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    to_calibrate, to_compare = photos[: len(photos) // 2], photos[len(photos) // 2 :]
    inputs = ({"photos": np.ascontiguousarray(each)} for each in to_calibrate)
    cpuinfo = Path("/proc/cpuinfo")  # as far as the system tells
    saturates = platform.machine() in ("x86_64", "AMD64") and cpuinfo.exists() and "vnni" not in cpuinfo.read_text()
    with TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(path, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            path,
            SimpleNamespace(get_next=lambda: next(inputs, None)),
            per_channel=True,
            reduce_range=saturates,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    both = (network, OnnxNetwork(path))
    ours, theirs = ([each.coarse_logits(photo).argmax(axis=1) for photo in to_compare] for each in both)
    changed = np.concatenate([(a != b).ravel() for a, b in zip(ours, theirs, strict=True)]).mean()
    what = f"{changed:.2%} of the labels of {counted(len(to_compare), 'other photograph')} are changed by int8"
    if changed > MAX_CHANGED_BY_INT8:
        raise InputError(f"not written, {what}")
    return what


def read_photos(image_dir, image_size):
    """Return the photographs for `write_int8`. Raises InputError if the folder holds fewer than two."""
    paths = list(list_images(image_dir).values())[: 2 * CALIBRATION_PHOTOS]
    if len(paths) < 2:
        raise InputError(f"{image_dir}: holds one photograph; one is needed to calibrate on and another to compare on")
    return [to_network_input([read_resized((0, path), image_size)[1]]) for path in paths]


def store_as_float16(path):
    """Store the weights of a float32 file as float16, in place. A Cast behind each makes them float32 when loaded."""
    import onnx

    network = onnx.load(path)
    for weight in network.graph.initializer:
        if weight.data_type == onnx.TensorProto.FLOAT:
            halved = onnx.numpy_helper.to_array(weight).astype("float16")
            cast = onnx.helper.make_node("Cast", [f"{weight.name}_16"], [weight.name], to=weight.data_type)
            network.graph.node.insert(0, cast)
            weight.CopyFrom(onnx.numpy_helper.from_array(halved, f"{weight.name}_16"))
    onnx.save(network, path)


def main(args):
    try:
        import onnxruntime  # noqa: F401  runs the file
        import onnxscript  # noqa: F401  torch.onnx.export needs it
    except ImportError:
        hint = 'pip install -e ".[export]"'
        raise InputError(f"export_onnx.py needs onnx, onnxscript and onnxruntime; {hint}") from None
    if Path(args.output).suffix != ".onnx":
        raise InputError(f"--output {args.output}: must end in .onnx")
    class_set = args.classes and find_class_set(args.classes)
    model = fold_batchnorm(checkpoints.load_model(args.checkpoint, class_set=class_set))
    model.image_size = round_to_stride(args.image_size or (BISENET_SIZE if args.layout else model.image_size))
    photos = args.int8 and read_photos(args.int8, model.image_size)
    with atomic_path(args.output) as temporary:
        outcome = write(model, temporary, args, photos)
    print(f"{args.output}: written; {outcome}")


def write(model, path, args, photos):
    """Write the file that the flags ask for; return what came of it."""
    metadata = {"image_size": str(model.image_size), "classes": json.dumps(model.class_set.to_dict())}
    try:
        if args.layout:
            return write_bisenet(model, path, metadata)
        if args.fixed:
            return write_fixed(model, path, metadata)
        export(CoarseLogits(model), path, ["photos", "logits"], metadata)
        # Batches of numbers and sizes that the export has not seen.
        expected = expected_logits(model, [random_photos(1, 3, 512, 512), random_photos(3, 3, 65, 130)])
        outcome = require_close(path, expected)
        if args.int8:
            return write_int8(TorchNetwork(model, torch.device("cpu")), path, photos)
        if args.float16:
            store_as_float16(path)
            return require_close(path, expected, FLOAT16_TOLERANCE)
        return outcome
    except InputError as error:
        raise InputError(f"{args.output}: {error}") from None


if __name__ == "__main__":
    run_script(lambda: main(export_parser(__doc__).parse_args()))
