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
from PIL import Image

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
    "bomb": bomb,
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
    "shape": wrong_tensor(lambda tensor: tensor[..., None]),
    "text for tensor": wrong_tensor(lambda _: "abc"),
}


def onnx_file(**metadata):
    """Change the metadata of a network by export_onnx.py."""

    def make(path, _):
        model = onnx.load(path)
        for entry in model.metadata_props:
            entry.value = metadata.get(entry.key, entry.value)
        path.write_bytes(model.SerializeToString())

    return make


ONNX = {
    **DAMAGE,
    **{f"image_size {value!r}": onnx_file(image_size=value) for value in ("abc", "0", "1000000", "-1")},
    **{f"classes {value[:9]!r}": onnx_file(classes=value) for value in ("{", "[]", "{}", "[" * 10_000)},
    "11 classes": onnx_file(classes=json.dumps(LAPA.to_dict())),
}
