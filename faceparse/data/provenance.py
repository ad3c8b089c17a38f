"""What made a label map: which checkpoint, at which size, how; and what outputs must not replace. Needs no torch."""

import hashlib
import json
import re
import sys
from pathlib import Path

from faceparse.data.classes import CELEBAMASK
from faceparse.data.images import is_drawn, read_maker
from faceparse.errors import InputError

HASH_DIGITS = 12
CLASS_SET = "class set"


def provenance(checkpoint, image_size, tta, class_set=CELEBAMASK, ids=None, **more):
    """Return one line that names a checkpoint by the first digits of its file's SHA-256, and what else decides.

    `class_set` and `ids` are those of `find_ids`.
    """
    digest = hashlib.sha256(Path(checkpoint).read_bytes()).hexdigest()[:HASH_DIGITS]
    parts = {"checkpoint": digest, "image size": image_size, "TTA": "yes" if tta else "no"} | more
    if ids:
        parts["ids"] = hashlib.sha256(bytes(ids)).hexdigest()[:HASH_DIGITS]
    if class_set.names != CELEBAMASK.names:
        parts[CLASS_SET] = mark(class_set)  # the last of the parts
    text = ", ".join(f"{name} {value}" for name, value in parts.items())
    return text.encode("utf-8", "backslashreplace").decode()  # names of folders need not be UTF-8


def mark(class_set):
    return hashlib.sha256("\n".join(class_set.names).encode()).hexdigest()[:HASH_DIGITS]


def require_makers_class_set(folder, makers, class_set):
    """Raise InputError if label maps say, by a text of `provenance`, that they were made with another class set."""
    for maker in makers:
        named = re.search(f", {CLASS_SET} ([0-9a-f]{{{HASH_DIGITS}}})$", maker)
        if maker.startswith("checkpoint ") and (named[1] if named else mark(CELEBAMASK)) != mark(class_set):
            raise InputError(f"{folder}: its label maps have other classes; give theirs as --classes")


def describe_makers(folder, makers):
    """Print what made the label maps of a folder, of a Counter {what made them: label maps}, or warn of a mixture."""
    if any(makers) and len(makers) == 1:
        print(f"{folder}: made by {next(iter(makers))}")
    elif any(makers):
        counts = "; ".join(f"{count} by {maker or 'an unknown program'}" for maker, count in makers.most_common(4))
        more = f"; and {len(makers) - 4} more" if len(makers) > 4 else ""
        mixture = f"a mixture of label maps, {counts}{more}; predict all of them into a new folder"
        print(f"warning: {folder}: {mixture}", file=sys.stderr)


def check_outputs(flag, folder, reads, names=()):
    """Raise InputError, which names `flag`, if files of these `names` may not be written into `folder`.

    Nothing is written into the folders of `reads`, folders or files. An existing file is replaced only if it says that
    this program made it, as no photograph and no data set's mask does.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{flag} {folder}: is not a folder; choose another")
    for path in map(Path, reads):
        if folder.resolve() == (path.parent if path.is_file() else path).resolve():
            raise InputError(f"{flag} {folder}: holds the files to read; choose another folder")
    for path in (folder / name for name in names):
        if path.exists() and not is_made_here(path):
            raise InputError(f"{flag} {folder}: {path.name} does not say that this program made it; choose another")


def is_made_here(path):
    """Tell whether a file is a label map, a picture or a description of faces by one of the scripts."""
    if path.suffix != ".json":
        return bool(read_maker(path)) or is_drawn(path)
    try:
        return {"file", "faces", "shares"} <= json.loads(path.read_bytes()).keys()
    except (ValueError, AttributeError):
        return False
