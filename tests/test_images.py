"""Reading and writing photographs and masks in every form that users have."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from faceparse.data.classes import CELEBAMASK, LAPA
from faceparse.data.images import (
    is_drawn,
    list_images,
    match_pairs,
    read_mask,
    read_photo,
    write_label_map,
    write_picture,
)
from faceparse.errors import InputError
from faceparse.files import atomic_path, check_new_folder

ROOT = Path(__file__).parent.parent
HEIC = ROOT / "tests/phone.heic"


@pytest.fixture
def photo():
    return np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def touch(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_pictures_that_were_drawn_here_say_so(tmp_path, photo, suffix):
    write_picture(tmp_path / f"drawn.{suffix}", photo)
    write_picture(tmp_path / f"photo.{suffix}", photo, photograph=True)
    assert is_drawn(tmp_path / f"drawn.{suffix}") and not is_drawn(tmp_path / f"photo.{suffix}")
    np.testing.assert_array_equal(*(read_photo(tmp_path / f"{name}.{suffix}") for name in ("drawn", "photo")))


def test_read_photo_rgb_and_rgba(tmp_path, photo):
    Image.fromarray(photo).save(tmp_path / "rgb.png")
    Image.fromarray(np.dstack([photo, np.full((6, 9), 255, np.uint8)])).save(tmp_path / "rgba.png")
    for name in ("rgb.png", "rgba.png"):
        result = read_photo(tmp_path / name)
        assert result.dtype == np.uint8
        np.testing.assert_array_equal(result, photo)


def test_what_is_transparent_is_white(tmp_path, photo):
    alpha = np.full((6, 9), 255, np.uint8)
    alpha[:, :4] = 0
    Image.fromarray(np.dstack([photo, alpha])).save(tmp_path / "rgba.png")
    Image.fromarray(np.dstack([photo[..., 0], alpha])).save(tmp_path / "la.png")
    for name, expected in (("rgba.png", photo), ("la.png", np.dstack([photo[..., 0]] * 3))):
        result = read_photo(tmp_path / name)
        assert (result[:, :4] == 255).all()
        np.testing.assert_array_equal(result[:, 4:], expected[:, 4:])


def test_read_photo_grey_becomes_three_equal_channels(tmp_path, photo):
    Image.fromarray(photo[..., 0]).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_photo(tmp_path / "grey.png"), np.dstack([photo[..., 0]] * 3))


def test_colours_of_a_profile_become_srgb(tmp_path, photo):
    """In the profile, which is sRGB's with two entries exchanged, the red of a pixel is green and its green is red."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = srgb.replace(b"rXYZ", b"old_").replace(b"gXYZ", b"rXYZ").replace(b"old_", b"gXYZ")
    alpha = np.full((6, 9, 1), 255, np.uint8)
    for name, pixels in (("rgb.png", photo), ("rgba.png", np.dstack([photo, alpha]))):
        for profile, expected in ((srgb, photo), (swapped, photo[..., [1, 0, 2]]), (b"damaged", photo)):
            Image.fromarray(pixels).save(tmp_path / name, icc_profile=profile)
            np.testing.assert_allclose(read_photo(tmp_path / name), expected, atol=1)


def test_read_photo_cmyk(tmp_path):
    Image.new("CMYK", (9, 6), (0, 255, 255, 0)).save(tmp_path / "cmyk.tif")
    photo = read_photo(tmp_path / "cmyk.tif")
    assert photo.shape == (6, 9, 3) and (photo == [255, 0, 0]).all()


def test_read_photo_16_bit_grey_is_scaled_not_clipped(tmp_path):
    deep = np.array([[0, 256, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert read_photo(tmp_path / "deep.png")[0, :, 0].tolist() == [0, 1, 128, 255]


def test_read_photo_is_upright(tmp_path, photo):
    exif = Image.Exif()
    exif[0x0112] = 6  # the tag Orientation: the picture is to be shown turned a quarter clockwise
    Image.fromarray(photo).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read_photo(tmp_path / "turned.png"), np.rot90(photo, -1))


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


def test_the_package_that_photographs_of_phones_need_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    with pytest.raises(InputError, match=r"phone\.heic: needs one more package, pip install pi-heif"):
        read_photo(HEIC)


@pytest.mark.parametrize("read", [read_photo, read_mask])
@pytest.mark.parametrize("spoil", ["truncated", "text", "empty", "missing"])
def test_unreadable_files_are_named(tmp_path, read, spoil):
    path = tmp_path / "bad.png"
    if spoil == "truncated":
        write_label_map(path, np.random.default_rng(0).integers(0, 19, (64, 64), dtype=np.uint8))
        path.write_bytes(path.read_bytes()[:-200])
    elif spoil != "missing":
        path.write_bytes(b"not an image" if spoil == "text" else b"")
    with pytest.raises(InputError, match=r"bad\.png: no"):
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


def test_two_valued_mask_holds_ids_0_and_1(tmp_path):
    Image.fromarray(np.array([[False, True]])).save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png").tolist() == [[0, 1]]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "I;16"])
def test_masks_of_other_modes_are_refused(tmp_path, mode):
    Image.new(mode, (4, 4)).save(tmp_path / "mask.png")
    with pytest.raises(InputError, match=r"mask\.png: a mask has one channel"):
        read_mask(tmp_path / "mask.png")


@pytest.mark.parametrize("wrong", [19, 100, 254])
@pytest.mark.parametrize("also_ignored", [False, True])
def test_ids_without_a_class_are_refused(tmp_path, wrong, also_ignored):
    write_label_map(tmp_path / "mask.png", np.array([[0, wrong, 255 if also_ignored else 18]], dtype=np.uint8))
    with pytest.raises(InputError, match=f"holds class id {wrong}"):
        read_mask(tmp_path / "mask.png")


def test_the_class_set_bounds_the_ids(tmp_path):
    write_label_map(tmp_path / "mask.png", np.array([[0, 11, 255]], dtype=np.uint8))
    assert read_mask(tmp_path / "mask.png", CELEBAMASK).tolist() == [[0, 11, 255]]
    with pytest.raises(InputError, match="holds class id 11"):
        read_mask(tmp_path / "mask.png", LAPA)  # 11 classes


def test_list_images_sorts_by_stem_and_skips_the_rest(tmp_path):
    touch(tmp_path, "b.JPG", "a b.png", "notes.txt", ".hidden.png")
    (tmp_path / "overlays").mkdir()
    assert list(list_images(tmp_path)) == ["a b", "b"]
    assert list_images(tmp_path / "b.JPG") == {"b": tmp_path / "b.JPG"}


def test_list_images_refuses_nothing_and_duplicates(tmp_path):
    with pytest.raises(InputError, match="no such file or folder"):
        list_images(tmp_path / "missing")
    with pytest.raises(InputError, match="holds no images"):
        list_images(touch(tmp_path / "empty", "notes.txt"))
    with pytest.raises(InputError, match="same stem"):
        list_images(touch(tmp_path / "twice", "a.png", "a.jpg"))


def test_match_pairs_by_stem_in_both_directions(tmp_path):
    images = touch(tmp_path / "images", "10.jpg", "9.jpg")
    masks = touch(tmp_path / "masks", "9.png", "10.png")
    assert match_pairs(images, masks) == [(stem, images / f"{stem}.jpg", masks / f"{stem}.png") for stem in ("10", "9")]
    touch(masks, "11.png")
    with pytest.raises(InputError, match=r"11\.png: has no photograph"):
        match_pairs(images, masks)
    touch(images, "11.jpg", "12.jpg")
    with pytest.raises(InputError, match=r"12\.jpg: has no mask"):
        match_pairs(images, masks)
    (images / "13.jpg").touch()
    with pytest.raises(InputError, match=r"12\.jpg: has no mask 12\.\* in .* \(the first of 2\)"):
        match_pairs(images, masks)


def test_a_new_folder_is_missing_or_empty(tmp_path):
    check_new_folder("--output_dir", tmp_path / "new")
    check_new_folder("--output_dir", tmp_path)
    (tmp_path / "a.png").touch()
    with pytest.raises(InputError, match=r"--output_dir .*: exists already"):
        check_new_folder("--output_dir", tmp_path)


def test_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path):
    path = tmp_path / "scores.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half of the n")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with atomic_path(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]
