"""Hostile files, each made by a function of (path, random generator); the same seed makes the same files."""

import io
import json
import os
import struct
import zlib

import numpy as np
import onnx
import torch
from helpers import checkpoint_content
from PIL import Image, PngImagePlugin

from faceparse.data.classes import LAPA


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
    data = bytearray(encoded(picture(), "PNG"))
    data[16:24] = struct.pack(">II", 50_000, 50_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)


def text_bomb(path, _):
    text = PngImagePlugin.PngInfo()
    text.add_text("Made by", "x" * 10**8, zip=True)
    path.write_bytes(encoded(picture(), "PNG", pnginfo=text))


def animated(path, _):
    frames = [picture(64, 64, "P") for _ in range(5)]
    path.write_bytes(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))


def pages(path, _):
    path.write_bytes(encoded(picture(), "TIFF", save_all=True, append_images=[picture(9, 70)] * 20))


def in_place_of(make):
    """Return a function that makes something else of a file's name."""

    def replace(path, _):
        path.unlink()
        make(path)

    return replace


DAMAGE = {
    **{f"cut {n}": cut for n in range(6)},
    **{f"bits {n}": flip_bits for n in range(8)},
    **{f"noise {n}": noise for n in range(2)},
    "pipe": in_place_of(os.mkfifo),
    "loop": in_place_of(lambda path: path.symlink_to(path.name)),
    "dangling": in_place_of(lambda path: path.symlink_to("nowhere.png")),
    "device": in_place_of(lambda path: path.symlink_to("/dev/zero")),
    "folder": in_place_of(os.mkdir),
    "empty": in_place_of(lambda path: path.touch()),
}


def of_size(width, height):
    return lambda path, _: path.write_bytes(encoded(picture(width, height), "PNG"))


def of_mode(mode, kind="TIFF"):
    return lambda path, _: path.write_bytes(encoded(picture(mode=mode), kind))


IMAGES = {
    **DAMAGE,
    **{f"{width} x {height}": of_size(width, height) for width, height in ((1, 1), (1, 5000), (5000, 1), (2, 3))},
    **{f"mode {mode}": of_mode(mode) for mode in ("1", "L", "LA", "P", "RGBA", "CMYK", "I", "F", "I;16", "LAB")},
    "wrong suffix": of_mode("RGB", "BMP"),
    **{each.__name__: each for each in (bomb, text_bomb, animated, pages)},
}
WRONG_VALUES = (None, "abc", -1, 10**12, [1], {"a": 1}, 0.5)


def wrong_field(key, value):
    return lambda path, _: torch.save(checkpoint_content(**{key: value}), path)


def wrong_tensor(change):
    def make(path, chance):
        weights = checkpoint_content()["state_dict"]
        key = chance.choice([key for key, value in weights.items() if value.is_floating_point()])
        wrong_field("state_dict", weights | {key: change(weights[key])})(path, chance)

    return make


CHECKPOINTS = {
    **DAMAGE,
    **{
        f"{key} {value}": wrong_field(key, value)
        for key in ("model_type", "num_classes", "classes", "state_dict", "image_size")
        for value in WRONG_VALUES
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
}


def onnx_file(external="", **metadata):
    """Change the metadata of a network by export_onnx.py, or let its weights lie in the file `external`."""

    def make(path, _):
        model = onnx.load(path)
        for entry in model.metadata_props:
            entry.value = metadata.get(entry.key, entry.value)
        if external:
            weights = model.graph.initializer[0]
            weights.ClearField("raw_data")
            weights.data_location = onnx.TensorProto.EXTERNAL
            weights.external_data.add(key="location", value=external)
        path.write_bytes(model.SerializeToString())

    return make


ONNX = {
    "whole": onnx_file(),
    **DAMAGE,
    **{f"image_size {value!r}": onnx_file(image_size=value) for value in ("abc", "0", "1000000", "-1")},
    **{f"classes {value[:9]!r}": onnx_file(classes=value) for value in ("{", "[]", "{}", "[" * 10_000)},
    "11 classes": onnx_file(classes=json.dumps(LAPA.to_dict())),
    **{
        f"external {name}": onnx_file(external=name) for name in ("../model.pt", "/etc/passwd", "model.pt", "/dev/zero")
    },
}
