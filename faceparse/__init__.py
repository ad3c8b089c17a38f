"""A face parser: `FaceParser`, and what the repository's scripts share. Importing the package loads nothing else."""

from importlib.util import find_spec
from pathlib import Path

__version__ = "1.0.0"
# The shipped network: in the repository, with PyTorch, the checkpoint beside the scripts, else an ONNX file.
_CHECKPOINT = Path(__file__).resolve().parent.parent / "Deeplab_checkpoint_lite.pt"
PACKAGED_NETWORK = str(Path(__file__).with_name("face_parser.onnx"))
SHIPPED_CHECKPOINT = str(_CHECKPOINT) if _CHECKPOINT.exists() and find_spec("torch") else PACKAGED_NETWORK


def __getattr__(name):
    """Load FaceParser and all that it needs when it is first asked for."""
    if name == "FaceParser":
        from faceparse.faces.face_parser import FaceParser

        return FaceParser
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
