"""What made a label map: which checkpoint, at which size, and how. Needs no torch."""

import hashlib
import json
import re
from pathlib import Path

from faceparse.data.classes import CELEBAMASK
from faceparse.data.images import is_drawn, read_maker
from faceparse.errors import InputError

HASH_DIGITS = 12
CLASS_SET = "class set"


def provenance(checkpoint, image_size, tta, class_set=CELEBAMASK, **more):
    """Return one line that names a checkpoint by the first digits of its file's SHA-256, and what else decides."""
    digest = hashlib.sha256(Path(checkpoint).read_bytes()).hexdigest()[:HASH_DIGITS]
    parts = {"checkpoint": digest, "image size": image_size, "TTA": "yes" if tta else "no"} | more
    if class_set.names != CELEBAMASK.names:
        parts[CLASS_SET] = mark(class_set)  # the last of the parts
    text = ", ".join(f"{name} {value}" for name, value in parts.items())
    return text.encode("utf-8", "backslashreplace").decode()  # names of folders need not be UTF-8


def mark(class_set):
    """Return what tells the names of a class set from those of another."""
    return hashlib.sha256("\n".join(class_set.names).encode()).hexdigest()[:HASH_DIGITS]


def mark_of(maker):
    """Return the mark of the class set that a text of `provenance` tells, None for another text."""
    if not maker.startswith("checkpoint "):
        return None
    named = re.search(f", {CLASS_SET} ([0-9a-f]{{{HASH_DIGITS}}})$", maker)
    return named[1] if named else mark(CELEBAMASK)


def require_makers_class_set(folder, makers, class_set):
    """Raise InputError where label maps say that they were made with another class set."""
    if {mark_of(maker) for maker in makers} - {None, mark(class_set)}:
        raise InputError(f"{folder}: its label maps have other classes; give theirs as --classes")


def describe_makers(folder, makers):
    """Return two lines about the label maps of a folder, of a Counter {what made them: label maps}.

    The first says what made them, "" where none does; the second warns of a mixture, "" where there is none.
    """
    known = [maker for maker in makers if maker]
    if not known:
        return "", ""
    if len(makers) == 1:
        return f"{folder}: made by {known[0]}", ""
    counts = "; ".join(f"{count} by {maker or 'what is not known'}" for maker, count in makers.most_common(4))
    more = f"; and {len(makers) - 4} more" if len(makers) > 4 else ""
    return "", f"warning: {folder}: a mixture of label maps, {counts}{more}; predict all of them into a new folder"


def check_outputs(flag, folder, reads, label_maps=(), pictures=(), descriptions=()):
    """Raise InputError, which names `flag`, where files written into `folder` would replace what must stay.

    reads: folders and files that are read. Nothing is written into such a folder, or the folder of such a file.
    label_maps: stems of the label maps to write, which may replace label maps that say what made them.
    pictures: names of the pictures to write, which may replace pictures that were drawn here, no photograph or mask.
    descriptions: names of the JSON files to write, which may replace those of parse_faces.py, no others' annotations.
    """
    folder = Path(folder)
    for path in map(Path, reads):
        if folder.resolve() == (path.parent if path.is_file() else path).resolve():
            raise InputError(f"{flag} {folder}: holds the files to read; choose another folder")
    for path in (folder / f"{stem}.png" for stem in label_maps):
        if path.exists() and not read_maker(path):
            what = "a data set's mask, or does not say what made it"
            raise InputError(f"{flag} {folder}: {path.name} is {what}; choose another folder")
    for path in (folder / name for name in pictures):
        if path.exists() and not is_drawn(path):
            raise InputError(f"{flag} {folder}: {path.name} was not drawn by this program; choose another folder")
    for path in (folder / name for name in descriptions):
        if path.exists() and not is_description(path):
            raise InputError(f"{flag} {folder}: {path.name} was not written by parse_faces.py; choose another folder")


def is_description(path):
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        return False
    return isinstance(content, dict) and {"file", "faces", "shares"} <= content.keys()
