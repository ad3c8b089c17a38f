"""Ids of training masks, which may stand for sets of classes, so that several data sets train one network."""

from pathlib import Path

import numpy as np

from faceparse.data.classes import IGNORE_INDEX, find_class_set
from faceparse.errors import InputError


def read_extra_classes(folder):
    """Return the ClassSet of another data set from its classes.json. Raises InputError if there is none."""
    path = Path(folder) / "classes.json"
    if not path.is_file():
        raise InputError(f"{path}: no such file; it says what the ids in the masks mean (dataset/README.md)")
    return find_class_set(path)


class Targets:
    """The ids that masks of a class set and of `others` have in training.

    Ids below len(class_set) are classes, len(class_set) + i stands for `sets[i]`, a tuple of class ids one of which is
    right, and 255 for what is unknown. `tables`: uint8 [256] for the class set and each of the others, from the id in a
    file of theirs to that in training. Raises InputError if another one has a name that is no class of the class set.
    """

    def __init__(self, class_set, others=()):
        self.class_set, self.sets = class_set, []
        self.tables = [self.table_of(each) for each in (class_set, *others)]
        self.flipped = self.mirrored_ids()

    def table_of(self, source):
        ids = [self.class_set.id_of(name, "--extra_dir:") for name in source.names]
        if source.left != self.class_set.left:
            ids = [self.class_set.flipped_ids()[each] for each in ids]
        members = {position: (class_id,) for position, class_id in enumerate(ids)}
        members |= {mask_id: tuple(sorted(ids[each] for each in classes)) for mask_id, classes in source.sets}
        table = np.full(256, IGNORE_INDEX, np.uint8)
        for mask_id, classes in members.items():
            table[mask_id] = self.id_of(classes)
        return table

    def id_of(self, classes):
        """Return the id of a sorted tuple of class ids."""
        if len(classes) == 1:
            return classes[0]
        if classes not in self.sets:
            self.sets.append(classes)
        new_id = len(self.class_set) + self.sets.index(classes)
        if new_id >= IGNORE_INDEX:
            raise InputError(f"--extra_dir: more than {IGNORE_INDEX - len(self.class_set)} sets of classes")
        return new_id

    def mirrored_ids(self):
        ids = self.class_set.flipped_ids()
        for classes in self.sets:  # which grows, as the mirror image of a set may be a new one
            ids[self.id_of(classes)] = self.id_of(tuple(sorted(ids[each] for each in classes)))
        return ids

    def flipped_ids(self):
        """Return the 256 ids of the mirrored picture, by the id in the picture."""
        return self.flipped
