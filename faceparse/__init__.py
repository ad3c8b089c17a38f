"""What the scripts at the top level share, a module per subject. Importing the package loads nothing else."""

from pathlib import Path

# The shipped checkpoint lies beside the scripts, wherever they are called from.
SHIPPED_CHECKPOINT = str(Path(__file__).resolve().parent.parent / "Deeplab_checkpoint_epoch_128.pt")


def __getattr__(name):
    """Load FaceParser and all that it needs when it is first asked for."""
    if name == "FaceParser":
        from faceparse.faces.face_parser import FaceParser

        return FaceParser
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
