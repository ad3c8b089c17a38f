"""Class sets: which classes a data set has, their colours, and which of them a horizontal flip swaps.

CelebAMask-HQ's 19 classes are the default; LaPa's 11, and the 19 in the order of the BiSeNet files (`bisenet`), are
built in. A JSON file describes any other set:

    {
      "names": ["background", "skin", "l_eye", "r_eye", "hair"],
      "colours": [[0, 0, 0], [204, 0, 0], [51, 51, 255], [204, 0, 204], [0, 0, 204]],
      "left_right_pairs": [["l_eye", "r_eye"]],
      "left": "subject",
      "ignored_id": 255,
      "sets": {"19": ["skin", "l_eye", "r_eye", "hair"]}
    }

The position of a name is its class id; the first, 0, is the background. Only the names are required: colours are made
up, no pair is swapped, left is the subject's, and pixels of id 255 are ignored. Masks may hold the ids of `sets` too,
each for a pixel of one of these classes, it is not known which: training learns from that, scores leave it out. A
further field, "from", is read by `find_ids` alone: {"head": ["skin", "nose"]} merges classes of a network into one.
"""

import colorsys
import json
from collections import namedtuple
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from faceparse.errors import InputError, counted

# Pixels of this id take no part in any loss or score. `read_mask` turns the ignored id of a class set into it.
IGNORE_INDEX = 255


@dataclass(frozen=True)
class ClassSet:
    """The classes of a data set.

    names: by class id, which is the value of a mask's pixel.
    colours: RGB from 0 to 255, by class id.
    left_right_pairs: (id, id) of the classes that a horizontal flip swaps, the left one first.
    ignored_id: the pixel value, in mask files, of pixels that count nowhere. 255 always does.
    sets: (id in masks, class ids) of what stands for one of several classes.
    left: whose left the names mean. The subject's left eye lies in the right half of the picture, the viewer's in the
        left half.
    """

    names: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]
    left_right_pairs: tuple[tuple[int, int], ...] = ()
    ignored_id: int = IGNORE_INDEX
    left: str = "subject"
    sets: tuple[tuple[int, tuple[int, ...]], ...] = ()

    def __len__(self):
        return len(self.names)

    def has_classes_of(self, other):
        """Tell whether weights trained on one set fit the other: colours, ignored id and `left` may differ."""
        pairs, others = ({frozenset(pair) for pair in each.left_right_pairs} for each in (self, other))
        return self.names == other.names and pairs == others

    def id_of(self, name, source=""):
        """Return the id of a class. Raises InputError, with `source` before it, if there is no such class."""
        if name not in self.names:
            raise InputError(f"{source} {name}: no class of this network; it has {', '.join(self.names)}".lstrip())
        return self.names.index(name)

    def flipped_ids(self):
        """Return the 256 class ids of the mirrored picture, by the id in the picture; ids without a pair stay."""
        ids = list(range(256))
        for left, right in self.left_right_pairs:
            ids[left], ids[right] = right, left
        return ids

    def subject_ids(self, *names):
        """Return the ids of the classes that are there of `names`, in which left is the subject's, as a list."""
        ids = [self.names.index(name) for name in names if name in self.names]
        return [self.flipped_ids()[each] for each in ids] if self.left == "viewer" else ids

    def to_dict(self):
        """Return the description as plain containers, as checkpoints and ONNX files hold it."""
        pairs = [[self.names[left], self.names[right]] for left, right in self.left_right_pairs]
        sets = {mask_id: [self.names[each] for each in classes] for mask_id, classes in self.sets}
        return json.loads(json.dumps(asdict(self) | {"left_right_pairs": pairs, "sets": sets}))


# Upper and lower lip (u_lip, l_lip) are not a left/right pair. eye_g are glasses, ear_r earrings, neck_l a necklace.
CELEBAMASK = ClassSet(
    names=(
        "background", "skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear",
        "mouth", "u_lip", "l_lip", "hair", "hat", "ear_r", "neck_l", "neck", "cloth",
    ),
    colours=(  # those of the CelebAMask-HQ demo
        (0, 0, 0), (204, 0, 0), (76, 153, 0), (204, 204, 0), (51, 51, 255), (204, 0, 204), (51, 255, 255),
        (247, 206, 205), (102, 51, 0), (255, 0, 0), (102, 204, 0), (255, 255, 0), (0, 0, 153), (0, 0, 204),
        (255, 51, 153), (0, 204, 204), (0, 51, 0), (255, 153, 51), (0, 204, 0),
    ),
    left_right_pairs=((4, 5), (6, 7), (8, 9)),
)  # fmt: skip

# LaPa: Liu et al., "A New Dataset and Boundary-Attention Semantic Segmentation for Face Parsing", 2020. The names are
# as published there; its masks of `l_eye` lie in the left half of the pictures.
LAPA = ClassSet(
    names=(
        "background", "skin", "l_brow", "r_brow", "l_eye", "r_eye", "nose", "u_lip", "i_mouth", "l_lip", "hair",
    ),
    colours=(
        (0, 0, 0), (204, 0, 0), (51, 255, 255), (247, 206, 205), (51, 51, 255), (204, 0, 204), (76, 153, 0),
        (255, 255, 0), (102, 204, 0), (0, 0, 153), (0, 0, 204),
    ),
    left_right_pairs=((2, 3), (4, 5)),
    left="viewer",
)  # fmt: skip

# CelebAMask-HQ's classes in the order of zllrunning/face-parsing.PyTorch, in which many programs expect label maps.
_THEIR_NAMES = (
    "background", "skin", "l_brow", "r_brow", "l_eye", "r_eye", "eye_g", "l_ear", "r_ear", "ear_r",
    "nose", "mouth", "u_lip", "l_lip", "neck", "neck_l", "cloth", "hair", "hat",
)  # fmt: skip
BISENET = replace(
    CELEBAMASK,
    names=_THEIR_NAMES,
    colours=tuple(CELEBAMASK.colours[CELEBAMASK.id_of(name)] for name in _THEIR_NAMES),
    left_right_pairs=((2, 3), (4, 5), (7, 8)),
)

# By the name that --classes takes, and that of the tools/prepare_<name>.py; `sign` is a folder of the download.
DataSet = namedtuple("DataSet", "name class_set sign")
DATA_SETS = {
    "celebamask": DataSet("CelebAMask-HQ", CELEBAMASK, "CelebA-HQ-img"),
    "lapa": DataSet("LaPa", LAPA, "train/landmarks"),
}
CLASS_SETS = {key: data_set.class_set for key, data_set in DATA_SETS.items()} | {"bisenet": BISENET}


def find_class_set(name):
    """Return the class set that `--classes` names: a key of CLASS_SETS, or the path of a JSON file; else InputError."""
    return class_set_from_dict(find_description(name, "--classes"), Path(name))


def find_description(name, flag):
    """Return the dict of the class set that a flag names; InputError if there is none."""
    if name in CLASS_SETS:
        return CLASS_SETS[name].to_dict()
    path = Path(name)
    if not path.is_file():
        raise InputError(f"{flag} {name}: neither {' nor '.join(CLASS_SETS)}, and no such JSON file")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise InputError(f"{path}: not a readable JSON file ({error})") from None


def find_ids(name, class_set):
    """Return the class set that `--ids` names, and 256 ids in it by those of `class_set`, a network's; InputError.

    A class is made of that of the network with its name, or of those that the field "from" of the JSON file lists.
    What is in no class is background. Without a name, None, `class_set` and None are returned.
    """
    if name is None:
        return class_set, None
    description = find_description(name, "--ids")
    wanted = class_set_from_dict(description, Path(name))
    merged, ids = description.get("from", {}), [0] * 256
    are_lists = isinstance(merged, dict) and all(isinstance(names, list) for names in merged.values())
    if not are_lists or not merged.keys() <= {*wanted.names[1:]}:
        raise InputError(f"{name}: from must map names of its classes, background left out, to lists of a network's")
    meant = class_set.flipped_ids() if wanted.left != class_set.left else range(256)
    for new_id, new_name in enumerate(wanted.names[1:], start=1):
        for part in merged.get(new_name, [new_name]):
            old_id = meant[class_set.id_of(part, f"--ids {name}:")]
            if ids[old_id]:
                raise InputError(f"--ids {name}: {part} is in {wanted.names[ids[old_id]]} and in {new_name}")
            ids[old_id] = new_id
    return wanted, ids


def class_set_from_dict(description, source):
    """Return the ClassSet of a dict as `to_dict` makes it; InputError, which names `source`, if a field is wrong."""

    def require(condition, problem):
        if not condition:
            raise InputError(f"{source}: {problem}")

    fields = ("names", "colours", "left_right_pairs", "left", "ignored_id", "sets")
    is_known = isinstance(description, dict) and description.keys() <= {*fields, "from"}
    require(is_known, f"a class set is a JSON object with no other fields than {', '.join(fields)}")

    names = description.get("names")
    are_names = isinstance(names, list) and all(isinstance(name, str) and name for name in names)
    require(are_names and not {*"/\\"} & {*"".join(names)}, "names is not a list of names without slashes")
    require(2 <= len(names) <= 255, f"names has {counted(len(names), 'class')}; 2 to 255 fit, because 255 is ignored")
    require(len(set(names)) == len(names), f"names holds {max(names, key=names.count)!r} twice")

    def is_colour(channels):
        is_rgb = isinstance(channels, list) and len(channels) == 3
        return is_rgb and all(type(channel) is int and 0 <= channel <= 255 for channel in channels)

    colours = description.get("colours", distinct_colours(len(names)))
    are_colours = isinstance(colours, list) and len(colours) == len(names) and all(map(is_colour, colours))
    require(are_colours, f"colours must be a list of {len(names)} times three whole numbers from 0 to 255")

    pairs = description.get("left_right_pairs", [])
    are_pairs = isinstance(pairs, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in pairs)
    require(are_pairs, "left_right_pairs must be a list of pairs of names")
    paired = [name for pair in pairs for name in pair]
    for name in paired:
        require(name in names and paired.count(name) == 1, f"left_right_pairs holds {name!r}, no name or twice")

    # Checkpoints of LaPa that were saved before this field existed lack it.
    left = description.get("left", "viewer" if tuple(names) == LAPA.names else "subject")
    require(left in ("subject", "viewer"), f"left is {left!r}; it must be 'subject' or 'viewer'")
    ignored_id, last = description.get("ignored_id", IGNORE_INDEX), len(names) - 1
    is_free = type(ignored_id) is int and last < ignored_id <= 255
    require(is_free, f"ignored_id is {ignored_id}; it must lie after {last}, the id of the last class, and up to 255")
    pairs = tuple((names.index(first), names.index(second)) for first, second in pairs)
    sets = description.get("sets", {})
    are_lists = isinstance(sets, dict) and all(isinstance(each, list) for each in sets.values())
    are_sets = are_lists and all(name in names for each in sets.values() for name in each)
    require(are_sets, "sets must map ids of masks to lists of names")
    are_ids = {*map(str, sets)} <= {*map(str, range(IGNORE_INDEX))}
    require(are_ids and all(sets.values()), f"sets must have ids below {IGNORE_INDEX}, and a name in each")
    sets = tuple((int(mask_id), tuple(sorted({*map(names.index, each)}))) for mask_id, each in sets.items())
    require(ignored_id not in dict(sets), f"sets must not have the id {ignored_id}, which is ignored")
    return ClassSet(tuple(names), tuple(map(tuple, colours)), pairs, ignored_id, left, sets)


def distinct_colours(count):
    """Return `count` RGB colours as lists: black for the background, then hues that lie far apart."""
    golden_ratio = 0.618034  # steps of this share of the circle never come close to an earlier one
    hues = [colorsys.hsv_to_rgb(index * golden_ratio % 1, 0.8, 0.9) for index in range(1, count)]
    return [[0, 0, 0], *([round(255 * channel) for channel in hue] for hue in hues)]


def agreed_class_set(class_set, wanted, source):
    """Return the class set to use, the `wanted` one or else that of a file, `source`; InputError if they differ."""
    if wanted is None:
        return class_set
    if not wanted.has_classes_of(class_set):
        what = "left and right pairs" if class_set.names == wanted.names else "classes"
        raise InputError(f"{source}: has other {what} than --classes: {len(class_set)}, {', '.join(class_set.names)}")
    return wanted


def read_extra_classes(folder):
    """Return the ClassSet of another data set from its classes.json. Raises InputError if there is none."""
    path = Path(folder) / "classes.json"
    if not path.is_file():
        raise InputError(f"{path}: no such file; it says what the ids in the masks mean (dataset/README.md)")
    return find_class_set(path)


class Targets:
    """The ids that masks of a class set and of `others` have in training.

    Ids below len(class_set) are classes, len(class_set) + i stands for `sets[i]`, a tuple of class ids one of which is
    right, and 255 for what is unknown. `tables`: for the class set and each of the others the 256 ids in training, by
    the id in its files. Raises InputError if another one has a name that is not in the class set.
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
        table = [IGNORE_INDEX] * 256
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
