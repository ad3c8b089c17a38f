"""Hostile files, each made by a function of (path, random generator); the same seed makes the same files."""

import io
import os
import struct
import zlib

import numpy as np
import torch
from PIL import Image

from faceparse.data.classes import CELEBAMASK
from faceparse.inference import checkpoints
from models import build_model

SLIM = "deeplabv3plus_mobilenet_slim"


def picture(width=64, height=64, mode="RGB"):
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def cut(path, chance):
    data = path.read_bytes()
    path.write_bytes(data[: chance.randrange(len(data))])


def flip_bits(path, chance):
    data = bytearray(path.read_bytes())
    for _ in range(chance.choice((1, 8, 64))):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def noise(path, chance):
    path.write_bytes(chance.randbytes(chance.randrange(1, 5000)))


def bomb(path, _):
    """A PNG of 50,000 x 50,000 pixels in a few bytes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(10**6))))


def text_bomb(path, _):
    from PIL import PngImagePlugin

    text = PngImagePlugin.PngInfo()
    text.add_text("Made by", "x" * 10**8, zip=True)
    path.write_bytes(encoded(picture(), "PNG", pnginfo=text))


def animated(path, _):
    frames = [picture(64, 64, "P") for _ in range(5)]
    path.write_bytes(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))


def pages(path, _):
    path.write_bytes(encoded(picture(), "TIFF", save_all=True, append_images=[picture(9, 70)] * 20))


def pipe(path, _):
    path.unlink()
    os.mkfifo(path)


def loop(path, _):
    path.unlink()
    path.symlink_to(path.name)


def dangling(path, _):
    path.unlink()
    path.symlink_to("nowhere.png")


def device(path, _):
    path.unlink()
    path.symlink_to("/dev/zero")


def folder(path, _):
    path.unlink()
    path.mkdir()


def empty(path, _):
    path.write_bytes(b"")


def of_size(width, height):
    return lambda path, _: path.write_bytes(encoded(picture(width, height), "PNG"))


def of_mode(mode, kind="TIFF"):
    return lambda path, _: path.write_bytes(encoded(picture(mode=mode), kind))


IMAGES = {
    **{f"cut {n}": cut for n in range(6)},
    **{f"bits {n}": flip_bits for n in range(8)},
    **{f"noise {n}": noise for n in range(2)},
    **{f"{width} x {height}": of_size(width, height) for width, height in ((1, 1), (1, 5000), (5000, 1), (2, 3))},
    **{f"mode {mode}": of_mode(mode) for mode in ("1", "L", "LA", "P", "RGBA", "CMYK", "I", "F", "I;16", "LAB")},
    "wrong suffix": of_mode("RGB", "BMP"),
    **{each.__name__: each for each in (bomb, text_bomb, animated, pages, pipe, loop, dangling, device, folder, empty)},
}


def model_content():
    torch.manual_seed(0)
    content = checkpoints.describe(SLIM, CELEBAMASK, build_model(SLIM).state_dict())
    return content | {"image_size": 32, "epoch": 1}


WRONG_VALUES = {
    "None": None,
    "text": "abc",
    "negative": -1,
    "huge": 10**12,
    "list": [1],
    "dict": {"a": 1},
    "float": 0.5,
}


def wrong_field(key, value):
    return lambda path, _: torch.save(model_content() | {key: value}, path)


def wrong_tensor(change):
    def make(path, chance):
        content = model_content()
        key = chance.choice([key for key, value in content["state_dict"].items() if value.is_floating_point()])
        content["state_dict"] = content["state_dict"] | {key: change(content["state_dict"][key])}
        torch.save(content, path)

    return make


CHECKPOINTS = {
    **{f"cut {n}": cut for n in range(6)},
    **{f"bits {n}": flip_bits for n in range(8)},
    **{f"noise {n}": noise for n in range(2)},
    **{
        f"{key} {name}": wrong_field(key, value)
        for key in ("model_type", "num_classes", "classes", "state_dict", "image_size")
        for name, value in WRONG_VALUES.items()
    },
    "nan": wrong_tensor(lambda tensor: tensor * float("nan")),
    "sparse": wrong_tensor(lambda tensor: tensor.to_sparse()),
    "meta": wrong_tensor(lambda tensor: tensor.to("meta")),
    "complex": wrong_tensor(lambda tensor: tensor.to(torch.complex64)),
    "integer": wrong_tensor(lambda tensor: tensor.long()),
    "bool": wrong_tensor(lambda tensor: tensor.bool()),
    "shape": wrong_tensor(lambda tensor: tensor[..., None]),
    "huge expanded": wrong_tensor(lambda _: torch.zeros(1).expand(10**10)),
    "text for tensor": wrong_tensor(lambda _: "abc"),
    **{each.__name__: each for each in (pipe, loop, dangling, device, folder, empty)},
}


def onnx_bytes(*, metadata=None, external=None, classes=19):
    """Return a tiny network in the form of export_onnx.py; with `external` its weights lie in the file of that name."""
    import json

    import onnx
    from onnx import helper, numpy_helper

    weights = numpy_helper.from_array(np.zeros((classes, 3, 1, 1), np.float32), "w")
    if external:
        weights.ClearField("raw_data")
        weights.data_location = onnx.TensorProto.EXTERNAL
        weights.external_data.add(key="location", value=external)
    sides = ["n", 3, "h", "w"]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["photos", "w"], ["logits"], strides=[4, 4])],
        "network",
        [helper.make_tensor_value_info("photos", onnx.TensorProto.FLOAT, sides)],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["n", classes, "a", "b"])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, {"image_size": "32", "classes": json.dumps(CELEBAMASK.to_dict())} | (metadata or {}))
    return model.SerializeToString()


def onnx_file(change=None, **options):
    def make(path, chance):
        path.write_bytes(onnx_bytes(**options))
        if change:
            change(path, chance)

    return make


ONNX = {
    "whole": onnx_file(),
    **{f"cut {n}": onnx_file(cut) for n in range(4)},
    **{f"bits {n}": onnx_file(flip_bits) for n in range(8)},
    "noise": noise,
    "empty": empty,
    **{f"image_size {value!r}": onnx_file(metadata={"image_size": value}) for value in ("abc", "0", "1000000", "-1")},
    **{f"classes {value!r}": onnx_file(metadata={"classes": value}) for value in ("{", "[]", "{}", "[" * 10_000)},
    "7 classes": onnx_file(classes=7),
    **{
        f"external {name}": onnx_file(external=name) for name in ("../model.pt", "/etc/passwd", "model.pt", "/dev/zero")
    },
}
