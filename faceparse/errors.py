"""Every script ends on bad input with one clear line and exit status 2, without a traceback."""

import sys


class InputError(Exception):
    """Bad input. The message names the file or flag, says what is wrong with it and what to do."""


def run_script(main):
    """Call `main()`; turn bad input into one line on stderr and exit status 2, Ctrl-C into status 130.

    An OSError counts as bad input, for example an output folder that cannot be written or a full disk; its message
    names the file. So does a batch that does not fit into the GPU's memory.
    """
    try:
        main()
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, by name because not every script imports torch
            raise
        print("error: the GPU has too little memory; lower --batch_size or --image_size", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
