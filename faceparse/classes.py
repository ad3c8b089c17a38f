"""The 19 classes of CelebAMask-HQ: names, colours and left/right pairs, in the order of their ids.

Left and right are the subject's own: `l_eye` lies in the right half of the picture.
"""

CLASS_NAMES = (
    "background", "skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear",
    "mouth", "u_lip", "l_lip", "hair", "hat", "ear_r", "neck_l", "neck", "cloth",
)  # fmt: skip
NUM_CLASSES = len(CLASS_NAMES)

# RGB, the colours of the CelebAMask-HQ demo.
PALETTE = (
    (0, 0, 0), (204, 0, 0), (76, 153, 0), (204, 204, 0), (51, 51, 255), (204, 0, 204),
    (51, 255, 255), (247, 206, 205), (102, 51, 0), (255, 0, 0), (102, 204, 0), (255, 255, 0),
    (0, 0, 153), (0, 0, 204), (255, 51, 153), (0, 204, 204), (0, 51, 0), (255, 153, 51), (0, 204, 0),
)  # fmt: skip

# A horizontal flip swaps these ids: eyes, brows, ears. `u_lip`/`l_lip` are upper and lower: never swapped.
LEFT_RIGHT_PAIRS = ((4, 5), (6, 7), (8, 9))

# Pixels of this id take no part in any loss or score.
IGNORE_INDEX = 255


def flipped_class_ids(num_classes=NUM_CLASSES):
    """Return the 256 ids of the mirrored picture, by the id in the picture; those from `num_classes` on stay."""
    ids = list(range(256))
    for left, right in LEFT_RIGHT_PAIRS:
        if right < num_classes:
            ids[left], ids[right] = right, left
    return ids
