"""Words of messages."""

import os
import shlex


def counted(number, noun):
    """Return a number and its noun, "1 label map" or "2,000 label maps"."""
    return f"{number:,} {noun}{'' if number == 1 else 'es' if noun.endswith('s') else 's'}"


def quoted(text):
    """Return a path or other argument as this system's shell takes it. On Windows no path holds a quote itself."""
    return f'"{text}"' if os.name == "nt" else shlex.quote(str(text))
