"""What the scripts at the top level share, a module per subject. Importing the package loads nothing else."""

from pathlib import Path

# The shipped checkpoint lies beside the scripts, wherever they are called from.
SHIPPED_CHECKPOINT = str(Path(__file__).resolve().parent.parent / "Deeplab_checkpoint_epoch_122.pt")
