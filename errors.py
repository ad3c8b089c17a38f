"""How every script ends on bad input: one clear line, exit status 2, no traceback."""

import sys


class InputError(Exception):
    """Bad input. The message names the file or flag, says what is wrong with it and what to do."""


def run(main):
    """Call `main()`; turn bad input into one line on stderr and exit status 2, Ctrl-C into status 130.

    An OSError is bad input too: an output folder that cannot be written, a full disk. It names its file itself.
    """
    try:
        main()
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
