"""Drawn faces in the layouts of the official downloads."""

import cv2
import numpy as np
from PIL import Image

from faceparse.data.classes import CELEBAMASK, LAPA
from tools.make_sample_dataset import draw_face

# In place of CelebAMask-HQ's names, whose left is the subject's; LaPa's is the viewer's.
LAPA_NAMES = {"l_brow": "r_brow", "r_brow": "l_brow", "l_eye": "r_eye", "r_eye": "l_eye", "mouth": "i_mouth"}
LAPA_NAMES |= dict.fromkeys(("eye_g", "l_ear", "r_ear"), "skin")


def make_celebamask_download(folder, orig_idx):
    """Draw what the official download of CelebAMask-HQ holds: pictures 0, 1, ... of these numbers in CelebA.

    Photographs are of 1024 px; the files of the parts, white on black, of 512 px. A part extends some pixels below
    the parts that are painted after it, so the order of painting matters. Returns the true masks, a list of uint8
    [512, 512].
    """
    (folder / "CelebA-HQ-img").mkdir(parents=True)
    rows = [f"{idx} {number} {number + 1:06d}.jpg" for idx, number in enumerate(orig_idx)]
    (folder / "CelebA-HQ-to-CelebA-mapping.txt").write_text("\n".join(["idx orig_idx orig_file", *rows, ""]))
    masks = []
    for idx in range(len(orig_idx)):
        parts_dir = folder / "CelebAMask-HQ-mask-anno" / str(idx // 2000)
        parts_dir.mkdir(parents=True, exist_ok=True)
        photo = Image.fromarray(draw_face(1024, 0, "train", idx)[0])
        photo.save(folder / f"CelebA-HQ-img/{idx}.jpg", quality=95)
        masks.append(draw_face(512, 0, "train", idx)[1])
        for class_id in set(np.unique(masks[-1])) - {0}:
            part = (masks[-1] == class_id).astype(np.uint8)
            grown = cv2.dilate(part, np.ones((5, 5), np.uint8)) * (masks[-1] > class_id)
            file = parts_dir / f"{idx:05d}_{CELEBAMASK.names[class_id]}.png"
            Image.fromarray(255 * (part | grown)).convert("RGB").save(file)
    return masks


def draw_lapa(folder):
    """Draw a download in LaPa's layout, 2 train, 1 val and 1 test faces of 200 x 150 px; return their masks."""
    names = [LAPA_NAMES.get(name, name) for name in CELEBAMASK.names]
    masks, ids = {}, np.array([LAPA.names.index(name) if name in LAPA.names else 0 for name in names], np.uint8)
    for split, index in (("train", 0), ("train", 1), ("val", 0), ("test", 0)):
        for name in ("images", "labels", "landmarks"):
            (folder / split / name).mkdir(parents=True, exist_ok=True)
        photo, mask = (part[20:170] for part in draw_face(200, 0, split, index))
        mask = masks[split, index] = ids[mask]
        Image.fromarray(photo).save(folder / split / f"images/{index}_0.jpg", quality=95)
        Image.fromarray(mask).save(folder / split / f"labels/{index}_0.png")
        rows, columns = np.nonzero(np.isin(mask, (2, 3, 7, 8, 9)))  # brows and mouth
        points = np.linspace((columns.min(), rows.min()), (columns.max(), rows.max()), 106)
        lines = ["106", *(f"{x:.3f} {y:.3f}" for x, y in points)]
        (folder / split / f"landmarks/{index}_0.txt").write_text("\n".join(lines))
    return masks
