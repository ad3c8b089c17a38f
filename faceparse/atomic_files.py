"""Write files and folders whole or not at all, and never over files that are read."""

import os
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from faceparse.errors import InputError

UNFINISHED = ".unfinished_"


@contextmanager
def atomic_path(path):
    """Yield a temporary path beside `path`. If the block succeeds the file replaces `path`, otherwise it is removed."""
    path = Path(path)
    # The suffix stays last, because Pillow and matplotlib choose the format by it.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:  # the error does not always name the file
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def atomic_folder(path):
    """Yield a temporary folder inside `path`. If the block succeeds its files move to `path`, otherwise none does."""
    path = Path(path)
    is_new = not path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=UNFINISHED, dir=path) as temporary:
            yield Path(temporary)
            for file in sorted(Path(temporary).rglob("*")):
                target = path / file.relative_to(temporary)
                if file.is_dir():
                    target.mkdir(exist_ok=True)
                else:
                    file.replace(target)
            is_new = False
    except OSError as error:
        raise InputError(
            f"{error.filename2 or error.filename or path}: cannot be written ({error.strerror or error})"
        ) from None
    finally:
        if is_new:
            with suppress(OSError):
                path.rmdir()


def check_new_folder(flag, path):
    """Raise InputError if `path` exists and is not an empty folder.

    The remains of a killed `atomic_folder` do not count.
    """
    path = Path(path)
    if path.exists() and not (path.is_dir() and all(file.name.startswith(UNFINISHED) for file in path.iterdir())):
        raise InputError(f"{flag} {path}: exists already; choose a new or an empty folder")


def refuse_overwriting(flag, output_dir, *inputs):
    """Raise InputError if `output_dir` is one of the input folders, or the folder of an input file."""
    for path in map(Path, inputs):
        folder = path.parent if path.is_file() else path
        if Path(output_dir).resolve() == folder.resolve():
            raise InputError(f"{flag} {output_dir}: holds the files to read; choose another folder")
