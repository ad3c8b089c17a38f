"""What made a label map: which checkpoint, at which size, and how. Needs no torch."""

import hashlib
from pathlib import Path

HASH_DIGITS = 12


def provenance(checkpoint, image_size, tta, **more):
    """Return one line that names a checkpoint by the first digits of its file's SHA-256, and what else decides."""
    digest = hashlib.sha256(Path(checkpoint).read_bytes()).hexdigest()[:HASH_DIGITS]
    parts = {"checkpoint": digest, "image size": image_size, "TTA": "yes" if tta else "no"} | more
    return ", ".join(f"{name} {value}" for name, value in parts.items())


def describe_makers(folder, makers):
    """Return two lines about the label maps of a folder, of a Counter {what made them: label maps}.

    The first says what made them, "" where none does; the second warns of a mixture, "" where there is none.
    """
    known = [maker for maker in makers if maker]
    if not known:
        return "", ""
    if len(makers) == 1:
        return f"{folder}: made by {known[0]}", ""
    counts = "; ".join(f"{count} by {maker or 'what is not known'}" for maker, count in makers.most_common(4))
    more = f"; and {len(makers) - 4} more" if len(makers) > 4 else ""
    return "", f"warning: {folder}: a mixture of label maps, {counts}{more}; predict all of them into a new folder"
