"""Reading and writing photographs and masks in every form that users have."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from faceparse.data.classes import CELEBAMASK
from faceparse.data.images import (
    AVIF_SUFFIXES,
    is_drawn,
    list_images,
    read_mask,
    read_pair,
    read_photo,
    write_label_map,
    write_picture,
)
from faceparse.errors import InputError

ROOT = Path(__file__).parent.parent
HEIC = ROOT / "tests/phone.heic"
PHOTO = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
MASK = np.arange(12, dtype=np.uint8).reshape(3, 4)


def turned(number):
    """EXIF data of this orientation."""
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


def touch(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_pictures_that_were_drawn_here_say_so(tmp_path, suffix):
    write_picture(tmp_path / f"drawn.{suffix}", PHOTO)
    write_picture(tmp_path / f"photo.{suffix}", PHOTO, photograph=True)
    assert is_drawn(tmp_path / f"drawn.{suffix}") and not is_drawn(tmp_path / f"photo.{suffix}")
    np.testing.assert_array_equal(*(read_photo(tmp_path / f"{name}.{suffix}") for name in ("drawn", "photo")))


def test_colours_grey_and_transparency(tmp_path):
    """What is transparent is white, and grey becomes three equal channels."""
    alpha, grey = np.full((6, 9), 255, np.uint8), np.dstack([PHOTO[..., 0]] * 3)
    alpha[:, :4] = 0
    for pixels, expected in (
        (PHOTO, PHOTO),
        (PHOTO[..., 0], grey),
        (np.dstack([PHOTO, alpha]), np.where(alpha[..., None] > 0, PHOTO, 255)),
        (np.dstack([PHOTO[..., 0], alpha]), np.where(alpha[..., None] > 0, grey, 255)),
    ):
        Image.fromarray(pixels).save(tmp_path / "photo.png")
        result = read_photo(tmp_path / "photo.png")
        assert result.dtype == np.uint8
        np.testing.assert_array_equal(result, expected)


def test_colours_of_a_profile_become_srgb(tmp_path):
    """In the profile, which is sRGB's with two entries exchanged, the red of a pixel is green and its green is red."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = srgb.replace(b"rXYZ", b"old_").replace(b"gXYZ", b"rXYZ").replace(b"old_", b"gXYZ")
    alpha = np.full((6, 9, 1), 255, np.uint8)
    for name, pixels in (("rgb.png", PHOTO), ("rgba.png", np.dstack([PHOTO, alpha]))):
        for profile, expected in ((srgb, PHOTO), (swapped, PHOTO[..., [1, 0, 2]]), (b"damaged", PHOTO)):
            Image.fromarray(pixels).save(tmp_path / name, icc_profile=profile)
            np.testing.assert_allclose(read_photo(tmp_path / name), expected, atol=1)


def test_cmyk_and_16_bit_grey_which_is_scaled_not_clipped(tmp_path):
    Image.new("CMYK", (9, 6), (0, 255, 255, 0)).save(tmp_path / "cmyk.tif")
    np.testing.assert_array_equal(read_photo(tmp_path / "cmyk.tif"), np.full((6, 9, 3), [255, 0, 0]))
    Image.fromarray(np.array([[0, 256, 32768, 65535]], dtype=np.uint16)).save(tmp_path / "deep.png")
    assert read_photo(tmp_path / "deep.png")[0, :, 0].tolist() == [0, 1, 128, 255]


def test_16_bit_colours_and_black_and_white(tmp_path):
    for suffix in ("png", "tif"):
        cv2.imwrite(str(tmp_path / f"deep.{suffix}"), PHOTO[..., ::-1].astype(np.uint16) << 8)
        np.testing.assert_array_equal(read_photo(tmp_path / f"deep.{suffix}"), PHOTO)
        is_white = PHOTO[..., 0] > 127
        Image.fromarray(is_white).save(tmp_path / f"bilevel.{suffix}")
        np.testing.assert_array_equal(read_photo(tmp_path / f"bilevel.{suffix}"), np.dstack([255 * is_white] * 3))


@pytest.mark.skipif(not AVIF_SUFFIXES, reason="this Pillow reads no AVIF")
def test_avif_photographs_are_read_upright(tmp_path):
    photo = np.zeros((48, 64, 3), np.uint8)
    photo[:, :32, 0] = 255  # red on the left, which is shown above
    Image.fromarray(photo).save(tmp_path / "a.AVIF", "AVIF", quality=95, exif=turned(6))
    (path,) = list_images(tmp_path).values()
    assert np.abs(read_photo(path) - np.rot90(photo, -1).astype(int)).mean() < 4
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(InputError, match=r"a\.AVIF: not a readable image"):
        read_photo(path)


@pytest.mark.parametrize(("number", "expected"), [(3, MASK[::-1, ::-1]), (6, np.rot90(MASK, -1)), (8, np.rot90(MASK))])
def test_photograph_and_mask_are_read_upright(tmp_path, number, expected):
    Image.fromarray(MASK).save(tmp_path / "mask.png", exif=turned(number))
    Image.fromarray(MASK).convert("RGB").save(tmp_path / "photo.png", exif=turned(number))
    photo, mask = read_pair(tmp_path / "photo.png", tmp_path / "mask.png")
    for result in (photo[..., 0], mask):
        np.testing.assert_array_equal(result, expected)


def test_the_sizes_decide_how_the_mask_of_a_turned_photograph_lies(tmp_path):
    Image.new("RGB", (4, 3)).save(tmp_path / "photo.jpg", exif=turned(6))  # shown, it is 3 wide and 4 high
    Image.fromarray(MASK).save(tmp_path / "as_stored.png")
    Image.fromarray(MASK.reshape(4, 3)).save(tmp_path / "as_shown.png")
    for name, expected in (("as_stored", np.rot90(MASK, -1)), ("as_shown", MASK.reshape(4, 3))):
        photo, mask = read_pair(tmp_path / "photo.jpg", tmp_path / f"{name}.png")
        assert photo.shape == (4, 3, 3)
        np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize(("side", "number"), [(3, 6), (4, 3)])
def test_sizes_that_do_not_tell_are_refused(tmp_path, side, number):
    Image.new("RGB", (side, 3)).save(tmp_path / "photo.jpg", exif=turned(number))
    mask = MASK[:, :side].copy()
    write_label_map(tmp_path / "mask.png", mask)
    with pytest.raises(InputError, match=r"mask\.png: its photograph is turned by EXIF data, and the sizes do not"):
        read_pair(tmp_path / "photo.jpg", tmp_path / "mask.png")
    for told in ({"made_by": "a network"}, {"is_upright": True}):
        write_label_map(tmp_path / "mask.png", mask, **told)
        np.testing.assert_array_equal(read_pair(tmp_path / "photo.jpg", tmp_path / "mask.png")[1], mask)


def test_photographs_of_phones_are_read_upright(tmp_path):
    """phone.heic is the middle of the portrait in 64 x 96 px, stored lying on its left side, as iPhones do."""
    pytest.importorskip("pi_heif")
    [path] = list_images(HEIC).values()
    portrait = Image.open(ROOT / "assets/astronaut.jpg").resize((96, 96), Image.Resampling.LANCZOS)
    difference = read_photo(path) - np.asarray(portrait.crop((16, 0, 80, 96)), np.float32)
    assert np.abs(difference).mean() < 4
    (tmp_path / "cut.heic").write_bytes(HEIC.read_bytes()[:1500])
    with pytest.raises(InputError, match=r"cut\.heic: not a readable image"):
        read_photo(tmp_path / "cut.heic")


@pytest.mark.parametrize("read", [read_photo, read_mask])
def test_unreadable_files_are_named(tmp_path, monkeypatch, read):
    path = tmp_path / "bad.png"
    write_label_map(path, np.random.default_rng(0).integers(0, 19, (64, 64), dtype=np.uint8))
    for content in (path.read_bytes()[:-200], b"not an image", b""):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"bad\.png: not a readable image"):
            read(path)
    path.unlink()
    with pytest.raises(InputError, match=r"bad\.png: no such file"):
        read(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    write_label_map(path, np.zeros((64, 64), np.uint8))
    with pytest.raises(InputError, match=r"bad\.png: has more than 0 million pixels"):
        read(path)


@pytest.mark.parametrize("palette_of", [None, CELEBAMASK])
def test_label_maps_survive_a_round_trip(tmp_path, palette_of):
    label_map = np.append(np.arange(19), [255] * 2).astype(np.uint8).reshape(3, 7)
    write_label_map(tmp_path / "new/map.png", label_map, palette_of)
    with Image.open(tmp_path / "new/map.png") as image:
        assert image.mode == ("P" if palette_of else "L")
        if palette_of:
            colours = [tuple(colour) for colour in np.array(image.convert("RGB")).reshape(-1, 3)[:19].tolist()]
            assert colours == list(CELEBAMASK.colours)
    mask = read_mask(tmp_path / "new/map.png")
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, label_map)


def test_list_images_sorts_by_stem_and_refuses_nothing_and_duplicates(tmp_path):
    (touch(tmp_path / "images", "b.JPG", "a b.png", "notes.txt", ".hidden.png") / "overlays").mkdir()
    assert list(list_images(tmp_path / "images")) == ["a b", "b"]
    assert list_images(tmp_path / "images/b.JPG") == {"b": tmp_path / "images/b.JPG"}
    with pytest.raises(InputError, match="no such file or folder"):
        list_images(tmp_path / "missing")
    with pytest.raises(InputError, match="holds no images"):
        list_images(touch(tmp_path / "empty", "notes.txt"))
    with pytest.raises(InputError, match="same stem"):
        list_images(touch(tmp_path / "twice", "a.png", "a.jpg"))
