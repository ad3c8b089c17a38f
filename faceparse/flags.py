"""Flags that several scripts share, and those of parse_faces.py, which the package has too. Needs no torch."""

import argparse
import re

from faceparse import SHIPPED_CHECKPOINT
from faceparse.inference.image_size import MAX_SIDE, MIN_SIDE

TOO_LARGE = "the memory that it takes grows with its square"


def number(text, kind=float):
    try:
        return kind(text)
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}") from None


def whole_number(least, most, reason):
    """Return the type of an argument from `least` to `most`; `reason` says why no more."""

    def parse(text):
        value = number(text, int)
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is {'negative' if least == 0 else f'not at least {least}'}")
        if value > most:
            raise argparse.ArgumentTypeError(f"{value} is more than {most}: {reason}")
        return value

    return parse


# Larger numbers overflow in one library or another.
positive_int, non_negative_int = (whole_number(least, 2**31 - 1, "a typing error?") for least in (1, 0))
network_input_size = whole_number(MIN_SIDE, MAX_SIDE, TOO_LARGE)


def fraction(text):
    value = number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{value} is not between 0 and 1")
    return value


def recolouring(text):
    """Turn NAME=#RRGGBB into (name, (red, green, blue))."""
    match = re.fullmatch("([^=]+)=#?([0-9a-fA-F]{6})", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form hair=#a02020, one class at a time")
    return match[1], tuple(bytes.fromhex(match[2]))


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the defaults, except None, False and [], which carry no information."""

    def _get_help_string(self, action):
        says_nothing = action.default in (None, []) or action.default is False
        return action.help if says_nothing else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """Says what is wrong with a command line in one line."""

    def error(self, message):
        self.exit(2, f"error: {message}; {self.prog} --help lists all flags\n")


def new_parser(description):
    """Return a parser and its `add_argument`; of the description, a script's docstring, the first line is shown."""
    description = description.strip().splitlines()[0]
    parser = Parser(description=description, formatter_class=HelpFormatter, allow_abbrev=False)
    return parser, parser.add_argument


def add_gpu(parser):
    hint = 'number of the GPU (not how many); without CUDA, or with CUDA_VISIBLE_DEVICES="" set, the CPU'
    parser.add_argument("--gpu_id", "--gpus", type=non_negative_int, default=0, help=hint)


def add_classes(add, default="celebamask", help="classes: celebamask, lapa, bisenet or a JSON file"):
    add("--classes", default=default, metavar="SET", help=help)


def add_classes_of_checkpoint(add):
    add_classes(add, default=None, help="classes that the checkpoint must have; needed if it does not tell them")


def add_ids(add):
    add("--ids", metavar="SET", help="order or merge the classes in label maps as bisenet does, or a JSON file")


def parse_faces_parser(description):
    parser, add = new_parser(description)
    add("inputs", nargs="*", metavar="INPUT", help="photographs, videos, and folders of them")
    add("--output_dir", default="parsed", help="receives <stem>.png, _overlay.jpg and .json")
    add("--checkpoint", default=SHIPPED_CHECKPOINT, help="ours, or a file of export_onnx.py")
    hint = "side of a face at the network, px, of which videos take three quarters; default: as it was trained"
    add("--image_size", type=network_input_size, help=hint)
    hint = "also cut out classes, e.g. hair,hat or face or person; may be given several times"
    add("--cutout", action="append", default=[], metavar="NAMES", help=hint)
    hint = "also write <stem>_colored.jpg with a class in another colour; may be given several times"
    add("--colors", type=recolouring, action="append", default=[], metavar="NAME=#RRGGBB", help=hint)
    add_ids(add)
    add("--whole", action="store_true", help="take each photograph for a portrait; no search")
    which = parser.add_mutually_exclusive_group().add_argument
    which("--face", type=positive_int, metavar="NUMBER", help="write one person alone; 1 is the largest face")
    which("--each_face", action="store_true", help="also write <stem>_face1.png and cut-outs of each person")
    hint = "of videos, also write label maps or cut-outs (of --cutout, or person) of all frames into <stem>_frames/"
    add("--frames", choices=("labels", "cutout"), help=hint)
    add("--webcam", type=non_negative_int, metavar="NUMBER", help="show a camera in a window instead")
    add_gpu(parser)
    add_classes_of_checkpoint(add)
    return parser
