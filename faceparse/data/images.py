"""Read photographs and masks, write label maps and pictures. Needs no torch."""

import struct
import zlib
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps, PngImagePlugin, features

from faceparse.data.classes import CELEBAMASK, IGNORE_INDEX
from faceparse.errors import InputError
from faceparse.files import atomic_path

WRITTEN_SUFFIXES = {".jfif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
HEIF_SUFFIXES = {".heic", ".heif"}  # iPhones' photographs
AVIF_SUFFIXES = {".avif"} if "avif" in features.modules and features.check("avif") else set()  # Pillow 11.3 and newer
READ_SUFFIXES = WRITTEN_SUFFIXES | HEIF_SUFFIXES | AVIF_SUFFIXES | {".bmp"}  # BMP files have no EXIF data
ORIENTATION = ExifTags.Base.Orientation
FIRST_SIDEWAYS = 5  # of the orientations 1 to 8; from here on width and height are exchanged
MADE_BY = "Made by"  # the text in a label map's PNG that says what made it
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue, ITU-R BT.601
DRAWN_BY = "faceparse"  # the software that EXIF data of drawn pictures name


def list_images(*paths):
    """Return {stem: path} of the images in folders (not their subfolders), and of single files, sorted by stem.

    Raises InputError if a path holds nothing or two files share a stem.
    """
    images = {}
    for path in map(Path, paths):
        if not path.exists():
            hint = "; dataset/README.md says how to get the data" if path.parts[:1] == ("dataset",) else ""
            raise InputError(f"{path}: no such file or folder{hint}")
        inside = sorted(path.iterdir()) if path.is_dir() else []
        files = [file for file in inside if file.suffix.lower() in READ_SUFFIXES and file.name[0] != "."]
        if path.is_dir() and not files:
            raise InputError(f"{path}: holds no images ({', '.join(sorted(READ_SUFFIXES))})")
        for file in files or [path]:
            if file.stem in images:
                raise InputError(f"{file}: has the same stem as {images[file.stem]}; remove or rename one of them")
            images[file.stem] = file
    return dict(sorted(images.items()))


def match_pairs(image_dir, mask_dir, more_image_dirs=()):
    """Pair images, which may lie in further folders, with the masks of the same stems: [(stem, image, mask path)].

    Raises InputError if an image has no mask or a mask no image.
    """
    images, masks = list_images(image_dir, *more_image_dirs), list_images(mask_dir)
    require_partners(images, masks, "mask", mask_dir)
    require_partners(masks, images, "photograph", image_dir)
    return [(stem, file, masks[stem]) for stem, file in images.items()]


def require_partners(files, partners, kind, folder):
    """Raise InputError if `folder` lacks a partner, of that `kind`, of one of `files`, {stem: path}."""
    alone = [stem for stem in files if stem not in partners]
    if alone:
        more = f" (the first of {len(alone)})" if len(alone) > 1 else ""
        raise InputError(f"{files[alone[0]]}: has no {kind} {alone[0]}.* in {folder}{more}")


@contextmanager
def open_image(path):
    """Open an image with Pillow; whatever is wrong with the file becomes an InputError that names it."""
    path = Path(path)
    if path.exists() and not path.is_file():  # a named pipe or a device would be read forever
        raise InputError(f"{path}: not a regular file; remove it from its folder")
    if path.suffix.lower() in HEIF_SUFFIXES:
        try:
            import pi_heif
        except ImportError:
            raise InputError(f"{path}: needs the extra heic, pip install pi-heif; or save it as JPEG") from None
        pi_heif.register_heif_opener()
    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except Image.DecompressionBombError:
        most = 2 * Image.MAX_IMAGE_PIXELS // 10**6
        raise InputError(f"{path}: has more than {most} million pixels; make it smaller") from None
    except (OSError, SyntaxError, ValueError, EOFError, OverflowError, RuntimeError, struct.error, zlib.error) as error:
        raise InputError(f"{path}: not a readable image, truncated or of an unknown format ({error})") from None


def read_photo(path):
    """Return a photograph as uint8 sRGB [H, W, 3], upright (EXIF), from grey, RGBA, CMYK, palette or 16-bit files."""
    with open_image(path) as image:
        return to_rgb(image)


def orientation(photo):
    """Return the EXIF orientation, 1 to 8, of a PIL image or of a photograph's path; 1 is upright."""
    if not isinstance(photo, Image.Image):
        with open_image(photo) as image:
            return orientation(image)
    turn = photo.getexif().get(ORIENTATION)
    return turn if turn in range(1, 9) else 1


def upright(image):
    """Return a PIL image turned as its EXIF data say; the image itself if they say nothing, which saves a copy."""
    return ImageOps.exif_transpose(image) if orientation(image) > 1 else image


def to_rgb(image):
    """Return a PIL image of any mode as uint8 sRGB [H, W, 3], upright (EXIF), before white where it is transparent."""
    image = upright(image)
    profile = image.info.get("icc_profile") if image.mode in ("RGB", "RGBA") else None
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion would clip instead of scale
        image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    image = image.convert("RGB")
    if profile:
        with suppress(ImageCms.PyCMSError, OSError):  # Colours of a damaged profile, or of none, are those of sRGB.
            own, srgb = ImageCms.ImageCmsProfile(BytesIO(profile)), ImageCms.createProfile("sRGB")
            image = ImageCms.profileToProfile(image, own, srgb)
    return np.array(image)


def resize(picture, width, height):
    """Resize a photograph, uint8 [H, W, 3], by antialiased bilinear, or a mask, uint8 [H, W], by nearest neighbour."""
    if picture.shape[:2] == (height, width):
        return picture
    way = Image.Resampling.NEAREST if picture.ndim == 2 else Image.Resampling.BILINEAR
    return np.array(Image.fromarray(picture).resize((width, height), way))


def read_mask(path, class_set=CELEBAMASK, turn=upright, keep_sets=False):
    """Return a mask as uint8 class ids [H, W]. Ignored pixels are 255, and those of sets of classes unless `keep_sets`.

    `turn` takes the PIL image and returns it upright. Raises InputError for a mask of several channels, and for one
    that holds an id which is not a class.
    """
    with open_image(path) as image:
        if image.mode not in ("P", "L", "1"):
            what = f"a mask has one channel of class ids (PNG mode P or L), not {image.mode}"
            raise InputError(f"{path}: {what}; dataset/README.md turns colours into ids")
        mask = np.array(turn(image)).astype(np.uint8, copy=False)
    last, ignored_id, sets = len(class_set) - 1, class_set.ignored_id, [mask_id for mask_id, _ in class_set.sets]
    if mask.max() > last:  # a histogram tells ignored pixels from wrong ids; it takes time, so only here
        if ignored_id != IGNORE_INDEX:
            mask[mask == ignored_id] = IGNORE_INDEX
        held = np.flatnonzero(np.bincount(mask.ravel(), minlength=256)[:IGNORE_INDEX])
        wrong = [each for each in held if each > last and each not in sets]
        if wrong:
            known = f"ids go from 0 to {last}, {ignored_id} is ignored; for another class set give --classes"
            raise InputError(f"{path}: holds class id {wrong[0]}; {known}")
    if sets and not keep_sets:
        mask[np.isin(mask, sets)] = IGNORE_INDEX
    return mask


def read_mask_of(path, shape, class_set=CELEBAMASK, owner="photograph", photo_turn=1, keep_sets=False):
    """Read a mask as `read_mask` does. Raises InputError unless it has its owner's height and width, `shape`.

    A mask without an EXIF orientation may lie as its photograph's file does or as that is shown; `photo_turn` is the
    photograph's `orientation`. The sizes decide, and InputError is raised if they do not tell.
    """
    height, width = shape[:2]

    def turn(image):
        is_known = photo_turn == 1 or ORIENTATION in image.getexif() or MADE_BY in image.info  # ours are upright
        sizes_tell = photo_turn >= FIRST_SIDEWAYS and width != height
        if not is_known and sizes_tell and image.size == (height, width):
            image.getexif()[ORIENTATION] = photo_turn
        elif not is_known and not sizes_tell and image.size == (width, height):
            problem = "its photograph is turned by EXIF data, and the sizes do not tell whether the mask is"
            raise InputError(f"{path}: {problem}; save the photograph as it is shown, or leave both out")
        return upright(image)

    mask = read_mask(path, class_set, turn, keep_sets)
    if mask.shape != (height, width):
        sizes = f"is {mask.shape[1]} x {mask.shape[0]} but its {owner} is {width} x {height}"
        raise InputError(f"{path}: {sizes}; they must be of one size; resize a mask by nearest neighbour")
    return mask


def read_pair(photo_path, mask_path, class_set=CELEBAMASK, keep_sets=False):
    """Return photograph [H, W, 3] and mask [H, W] as `read_mask` does, both upright; InputError if sizes differ."""
    with open_image(photo_path) as image:
        photo, turn = to_rgb(image), orientation(image)
    return photo, read_mask_of(mask_path, photo.shape, class_set, photo_turn=turn, keep_sets=keep_sets)


def read_maker(path):
    """Return the text that says what made a label map; "" if the file has none, as a data set's masks."""
    with open_image(path) as image:
        return str(image.info.get(MADE_BY, ""))


def write_label_map(path, label_map, palette_of=None, made_by="", is_upright=False, ids=None):
    """Write uint8 class ids [H, W] as a single-channel PNG, atomically.

    The mode is L, which every reader returns as ids, or P in the colours of the ClassSet `palette_of`, as in the data
    set's own masks. `made_by` is a text for `read_maker`. With `is_upright` EXIF data say so, for `read_mask_of`. `ids`
    are the 256 ids to write in place of each, see `find_ids`.
    """
    image = Image.fromarray(label_map)
    if ids:
        image = image.point(ids)
    if palette_of:
        # All 256 colours, because Pillow writes a palette of 16 and fewer in 4 bits, which turns 255 into 15.
        colours = [*palette_of.colours, *[(128, 128, 128)] * (256 - len(palette_of))]
        image.putpalette([channel for colour in colours for channel in colour])
    text, exif = PngImagePlugin.PngInfo(), Image.Exif()
    if made_by:
        text.add_text(MADE_BY, made_by)
    if is_upright:
        exif[ORIENTATION] = 1
    with atomic_path(path) as temporary:
        image.save(temporary, compress_level=1, pnginfo=text, exif=exif)


def check_picture_name(path):
    """Raise InputError for a name that tells no format of pictures."""
    if Path(path).suffix.lower() not in WRITTEN_SUFFIXES:
        raise InputError(f"{path}: is not a picture file name; use one of {', '.join(sorted(WRITTEN_SUFFIXES))}")


def write_picture(path, picture, photograph=False):
    """Write uint8 RGB [H, W, 3], atomically; unless it is a photograph, EXIF data say what drew it, for `is_drawn`."""
    check_picture_name(path)
    options = {"compress_level": 1, "quality": 95, "subsampling": 0}
    if not photograph:
        options["exif"] = Image.Exif()
        options["exif"][ExifTags.Base.Software] = DRAWN_BY
    with atomic_path(path) as temporary:
        Image.fromarray(picture).save(temporary, **options)


def is_drawn(path):
    """Tell whether `write_picture` drew a file."""
    with open_image(path) as image:
        return image.getexif().get(ExifTags.Base.Software) == DRAWN_BY
