"""Work on many files with a process per core. Needs no torch."""

import os
import signal
from concurrent.futures import ProcessPoolExecutor

from tqdm import tqdm


def in_parallel(function, items, description, chunk=16):
    """Yield `function(item)` of each item, in order, from a process per core; a progress bar goes to stderr.

    Processes, because numpy's bincount holds the interpreter lock. The first error ends them all.
    """
    items = list(items)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes = min(cores, -(-len(items) // chunk))
    # Ctrl-C is for this process alone; the others would print a traceback each.
    with ProcessPoolExecutor(processes, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)) as pool:
        results = pool.map(function, items, chunksize=chunk)
        yield from tqdm(results, description, total=len(items), leave=False, disable=None)
