"""Write a checkpoint's network as an ONNX file, for prediction on the CPU with ONNX Runtime.

    pip install -r requirements-export.txt
    python export_onnx.py --checkpoint checkpoints/deeplab/best.pt --output face_parser.onnx
    python validate.py --checkpoint face_parser.onnx
    python export_onnx.py --labels --output labels.onnx       # photographs in, label maps out, for any language
    python export_onnx.py --float16 --output web/face_parser.onnx
    python export_onnx.py --int8 dataset/train/train_image --output face_parser_int8.onnx

Input `photos`: float32 [N, 3, H, W], RGB in [0, 1], any N, H, W. Output `logits`: float32 [N, classes, h, w] at the
decoder's stride; bilinear upsampling and an argmax give the labels. With `--labels` both are inside, and the output is
`labels`: uint8 [N, H, W] at input size. validate.py takes the logits, because it makes label maps of them faster. The
classes and the image size of the training are in the file's metadata.

With `--float16` the file is half as large and computes in float32 all the same, so that it runs wherever the float32
file does; the page in `web/` loads it. With `--int8` weights and activations are 8-bit integers inside; their ranges
are those seen on some photographs of the folder. That pays on CPUs with VNNI instructions (Intel Ice Lake, AMD Zen 4,
and later). Sums of 8-bit products saturate on an x86 CPU without them, so that the weights get 7 bits there, where the
system tells, as Linux does.
"""

import json
import platform
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from faceparse.data.classes import find_class_set
from faceparse.data.images import list_images
from faceparse.errors import InputError, counted, run_script
from faceparse.files import atomic_path
from faceparse.inference import checkpoints
from faceparse.inference.networks import OnnxNetwork, TorchNetwork
from faceparse.inference.prediction import read_resized, to_network_input
from models.folding import fold_batchnorm
from options import export_parser

CPU = torch.device("cpu")
FLOAT16_TOLERANCE = 1  # weights rounded to 11 bits
TOLERANCE = 1e-3  # of logits whose range is some tens
CALIBRATION_PHOTOS = 32  # and as many others to compare labels on
LABELS_EXACT = 1e-3  # share of the labels of an exported argmax that rounding may change
LABELS_HOLD = 0.02  # largest share of labels that int8 may change


class CoarseLogits(nn.Module):
    """Makes `coarse_logits` the forward pass, which is what torch.onnx.export exports."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, photos):
        return self.model.coarse_logits(photos)


class Labels(CoarseLogits):
    """Gives uint8 class ids [N, H, W] at input size instead."""

    def forward(self, photos):
        return self.model(photos).argmax(dim=1).to(torch.uint8)


def export(module, path, output_name, metadata):
    """Write the ONNX file of a module above; `metadata` is a dict of str."""
    dynamic = torch.export.Dim.DYNAMIC
    program = torch.onnx.export(
        module.eval(),
        (torch.rand(2, 3, 96, 128),),
        input_names=["photos"],
        output_names=[output_name],
        dynamic_shapes=({0: dynamic, 2: dynamic, 3: dynamic},),
        dynamo=True,
        verbose=False,
    )
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces of the export, with the paths of the machine it ran on
    program.model.metadata_props.update(metadata)
    program.save(path)


def random_batches():
    """Return batches, float32 [N, 3, H, W] in [0, 1], of numbers and sizes that the export has not seen."""
    random = np.random.default_rng(0)
    return [random.random(shape, dtype=np.float32) for shape in ((1, 3, 512, 512), (3, 3, 65, 130))]


def largest_difference(network, other):
    """Between the logits of both."""
    return max(np.abs(network.coarse_logits(each) - other.coarse_logits(each)).max() for each in random_batches())


def saturates():
    """Whether sums of 8-bit products saturate on this CPU: on x86 without VNNI, as far as Linux tells."""
    cpuinfo = Path("/proc/cpuinfo")
    return platform.machine() in ("x86_64", "AMD64") and cpuinfo.exists() and "vnni" not in cpuinfo.read_text()


def quantize(path, photos):
    """Turn a float32 file into int8, in place; `photos` is a list of float32 [1, 3, h, w] in [0, 1] to calibrate on."""
    from onnxruntime.quantization import QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    inputs = ({"photos": np.ascontiguousarray(each)} for each in photos)
    with TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(path, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            path,
            SimpleNamespace(get_next=lambda: next(inputs, None)),
            per_channel=True,
            reduce_range=saturates(),
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )


def store_as_float16(path):
    """Store the weights of a float32 file as float16, in place. A Cast behind each makes them float32 when loaded."""
    import onnx

    network = onnx.load(path)
    casts = []
    for weight in network.graph.initializer:
        if weight.data_type == onnx.TensorProto.FLOAT:
            halved = onnx.numpy_helper.to_array(weight).astype("float16")
            casts.append(onnx.helper.make_node("Cast", [f"{weight.name}_16"], [weight.name], to=weight.data_type))
            weight.CopyFrom(onnx.numpy_helper.from_array(halved, f"{weight.name}_16"))
    nodes = [*casts, *network.graph.node]
    del network.graph.node[:]
    network.graph.node.extend(nodes)
    onnx.save(network, path)


def differing_labels(model, path):
    """The share of the labels of a file with `--labels` that are not PyTorch's."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    network = Labels(model).eval()
    differing = []
    for photos in random_batches():
        with torch.inference_mode():
            expected = network(torch.from_numpy(photos)).numpy()
        differing.append((session.run(["labels"], {"photos": photos})[0] != expected).ravel())
    return np.concatenate(differing).mean()


def read_calibration(image_dir, image_size):
    """Return two lists of photographs, float32 [1, 3, h, w] in [0, 1]: those to calibrate on and those to compare on.

    Raises InputError where the folder holds fewer than two.
    """
    paths = list(list_images(image_dir).values())[: 2 * CALIBRATION_PHOTOS]
    if len(paths) < 2:
        raise InputError(f"{image_dir}: holds one photograph; one is needed to calibrate on and another to compare on")
    photos = [to_network_input([read_resized((0, path), image_size)[1]]) for path in paths]
    return photos[: len(photos) // 2], photos[len(photos) // 2 :]


def changed_share(network, other, photos):
    """The share of the labels, on the decoder's grid, in which two networks differ."""
    labels = [[each.coarse_logits(photo).argmax(axis=1).ravel() for photo in photos] for each in (network, other)]
    return (np.concatenate(labels[0]) != np.concatenate(labels[1])).mean()


def main(args):
    try:
        import onnxruntime  # noqa: F401  runs the file
        import onnxscript  # noqa: F401  torch.onnx.export needs it
    except ImportError:
        raise InputError(
            "export_onnx.py needs onnx, onnxscript and onnxruntime; pip install -r requirements-export.txt"
        ) from None
    if Path(args.output).suffix != ".onnx":
        raise InputError(f"--output {args.output}: must end in .onnx")
    model = fold_batchnorm(
        checkpoints.load_model(args.checkpoint, class_set=args.classes and find_class_set(args.classes))
    )
    if args.int8:
        to_calibrate, to_compare = read_calibration(args.int8, model.image_size)
    metadata = {"image_size": str(model.image_size), "classes": json.dumps(model.class_set.to_dict())}
    with atomic_path(args.output) as temporary:
        if args.labels:
            export(Labels(model), temporary, "labels", metadata)
            changed = differing_labels(model, temporary)
            if changed > LABELS_EXACT:
                raise InputError(f"{args.output}: not written, {changed:.2%} of its labels are not those of PyTorch")
            outcome = f"gives label maps; {changed:.2%} of the labels are not those of PyTorch"
        else:
            export(CoarseLogits(model), temporary, "logits", metadata)
            network = TorchNetwork(model, CPU)
            difference = largest_difference(network, OnnxNetwork(temporary))
            if not difference <= TOLERANCE:  # NaN too
                raise InputError(f"{args.output}: not written, its logits differ from PyTorch's by {difference:.2g}")
            outcome = f"its logits differ from PyTorch's by at most {difference:.1g}"
        if args.int8:
            quantize(temporary, to_calibrate)
            changed = changed_share(network, OnnxNetwork(temporary), to_compare)
            outcome = f"int8 changes {changed:.2%} of the labels of {counted(len(to_compare), 'other photograph')}"
            if changed > LABELS_HOLD:
                raise InputError(f"{args.output}: not written, {outcome}; leave out --int8")
        elif args.float16:
            store_as_float16(temporary)
            difference = largest_difference(network, OnnxNetwork(temporary))
            if not difference <= FLOAT16_TOLERANCE:
                raise InputError(f"{args.output}: not written, logits differ by {difference:.2g}; leave out --float16")
            outcome = f"with float16 weights its logits differ from PyTorch's by at most {difference:.1g}"
    print(f"{args.output}: written; {outcome}")


if __name__ == "__main__":
    run_script(lambda: main(export_parser(__doc__).parse_args()))
