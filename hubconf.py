"""For torch.hub: `torch.hub.load("<folder of this repository>", "face_parser", source="local")`."""

from faceparse import SHIPPED_CHECKPOINT

dependencies = ["torch", "numpy", "PIL", "cv2", "tqdm"]


def face_parser(checkpoint=SHIPPED_CHECKPOINT, **options):
    """Return a FaceParser; see faceparse/faces/face_parser.py for its options."""
    from faceparse import FaceParser

    return FaceParser(checkpoint, **options)
