"""What the outputs of a script must not replace: what it reads, a data set's masks, label maps."""

import json
from pathlib import Path

from faceparse.errors import InputError
from faceparse.images import is_drawn, read_maker


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
