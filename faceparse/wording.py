"""Words of messages."""


def counted(number, noun):
    """Return a number and its noun, "1 label map" or "2,000 label maps"."""
    return f"{number:,} {noun}{'' if number == 1 else 'es' if noun.endswith('s') else 's'}"
