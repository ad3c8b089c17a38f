"""Reading photographs and masks, writing label maps. Needs no torch."""

import os
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image, ImageOps

from faceparse.classes import IGNORE_INDEX, NUM_CLASSES, PALETTE
from faceparse.errors import InputError

IMAGE_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
UNFINISHED = ".unfinished_"
FLAT_PALETTE = [channel for colour in PALETTE for channel in colour]


def list_images(path):
    """Return {stem: path} of the images in a folder (not its subfolders), or of a single file, sorted by stem.

    Raises InputError when nothing is there, or when two files share a stem.
    """
    path = Path(path)
    if path.is_file():
        return {path.stem: path}
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder")
    images = {}
    for file in sorted(path.iterdir()):
        if file.suffix.lower() not in IMAGE_SUFFIXES or file.name.startswith("."):
            continue
        if file.stem in images:
            raise InputError(f"{file}: has the same stem as {images[file.stem].name}; remove or rename one of them")
        images[file.stem] = file
    if not images:
        raise InputError(f"{path}: holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return dict(sorted(images.items()))


def match_pairs(image_dir, mask_dir):
    """Pair the files of two folders by stem, never by position: a list of (stem, image path, mask path).

    Raises InputError when a file of one folder has no partner in the other.
    """
    images, masks = list_images(image_dir), list_images(mask_dir)
    require_partners(images, masks, "mask", mask_dir)
    require_partners(masks, images, "photograph", image_dir)
    return [(stem, file, masks[stem]) for stem, file in images.items()]


def require_partners(files, partners, kind, folder):
    """Raise InputError for the first of {stem: path} without a partner, which is of that kind and in that folder."""
    for stem, file in files.items():
        if stem not in partners:
            raise InputError(f"{file}: has no {kind} {stem}.* in {folder}")


@contextmanager
def open_image(path):
    """Open an image with Pillow; whatever is wrong with the file becomes an InputError that names it."""
    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: not a readable image, truncated or of an unknown format ({error})") from None


def read_photo(path):
    """Return a photograph as uint8 RGB [H, W, 3], upright (EXIF), from grey, RGBA, CMYK, palette or 16-bit files."""
    with open_image(path) as image:
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion would clip instead of scale
            image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
        return np.array(image.convert("RGB"))


def read_mask(path, num_classes=NUM_CLASSES):
    """Return a mask as uint8 class ids [H, W]; 255 is "ignore".

    Raises InputError for a mask that is not single-channel (mode P, L or 1) or that holds an id in num_classes..254.
    """
    with open_image(path) as image:
        if image.mode not in ("P", "L", "1"):
            raise InputError(f"{path}: a mask has one channel of class ids (PNG mode P or L); this one is {image.mode}")
        mask = np.array(image).astype(np.uint8, copy=False)
    if mask.max() >= num_classes:  # the histogram is only needed where 255 may hide a wrong id
        wrong = np.flatnonzero(np.bincount(mask.ravel(), minlength=256)[num_classes:IGNORE_INDEX])
        if wrong.size:
            raise InputError(
                f"{path}: holds class id {wrong[0] + num_classes}; ids go from 0 to {num_classes - 1}, 255 is ignored"
            )
    return mask


def read_mask_of(path, shape, owner="photograph", num_classes=NUM_CLASSES):
    """`read_mask` of a mask that must have its owner's height and width, `shape`; InputError where they differ."""
    mask = read_mask(path, num_classes)
    if mask.shape != tuple(shape[:2]):
        raise InputError(
            f"{path}: is {mask.shape[1]} x {mask.shape[0]} but its {owner} is {shape[1]} x {shape[0]}; "
            "they must be of one size"
        )
    return mask


def read_pair(photo_path, mask_path, num_classes=NUM_CLASSES):
    """Return photograph [H, W, 3] and mask [H, W]; InputError where their sizes differ."""
    photo = read_photo(photo_path)
    return photo, read_mask_of(mask_path, photo.shape, num_classes=num_classes)


def refuse_overwriting(flag, output_dir, *inputs):
    """Raise InputError where `output_dir` is a folder that is read, or that of a file that is read."""
    for path in map(Path, inputs):
        folder = path.parent if path.is_file() else path
        if Path(output_dir).resolve() == folder.resolve():
            raise InputError(f"{flag} {output_dir}: holds the files to read; choose another folder")


def refuse_overwriting_masks(flag, output_dir, stems):
    """Raise InputError where a label map would replace a data set's mask: those have a palette, predictions none."""
    for path in (Path(output_dir) / f"{stem}.png" for stem in stems):
        with suppress(OSError), Image.open(path) as image:
            if image.mode == "P":
                raise InputError(f"{flag} {output_dir}: {path.name} is a data set's mask; choose another folder")


@contextmanager
def atomic_path(path):
    """Yield a temporary path beside `path`, moved over it when the block ends well: whole file or none."""
    path = Path(path)
    # The suffix stays last, because Pillow and matplotlib choose the format by it.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:  # it does not always know the file
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def atomic_folder(path):
    """Yield a temporary folder inside `path`; its files move up when the block ends well, else none does."""
    path = Path(path)
    is_new = not path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=UNFINISHED, dir=path) as temporary:
            yield Path(temporary)
            for file in sorted(Path(temporary).rglob("*")):
                target = path / file.relative_to(temporary)
                if file.is_dir():
                    target.mkdir(exist_ok=True)
                else:
                    file.replace(target)
            is_new = False
    except OSError as error:
        raise InputError(
            f"{error.filename2 or error.filename or path}: cannot be written ({error.strerror or error})"
        ) from None
    finally:
        if is_new:
            with suppress(OSError):
                path.rmdir()


def check_new_folder(flag, path):
    """Raise InputError where a folder that is to be new would mix with what is there.

    What a killed `atomic_folder` left does not count.
    """
    path = Path(path)
    if path.exists() and not (path.is_dir() and all(file.name.startswith(UNFINISHED) for file in path.iterdir())):
        raise InputError(f"{flag} {path}: exists already; choose a new or an empty folder")


def write_label_map(path, label_map, palette=False):
    """Write uint8 class ids [H, W] as a single-channel PNG, atomically.

    Mode L by default, which every reader takes as it is; with `palette` mode P in the class colours, as the data
    set's own masks are (mind that OpenCV expands those into colours).
    """
    image = Image.fromarray(label_map)
    if palette:
        image = image.convert("L")
        image.putpalette(FLAT_PALETTE)
    with atomic_path(path) as temporary:
        image.save(temporary, compress_level=1)
