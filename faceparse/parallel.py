"""Work on many files in processes or threads. Needs no torch."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing, nullcontext

from tqdm import tqdm

MAX_PROCESSES = 61 if os.name == "nt" else 1024  # Windows cannot wait for more


def usable_cores():
    """Return the number of cores that this process may use, which taskset and containers limit."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_parallel(function, items, description, chunk=16):
    """Yield `function(item)` of each item, in order, from a process per core; a progress bar goes to stderr.

    Processes and not threads are used because numpy's bincount holds the interpreter lock; one chunk needs none. The
    first error ends all.
    """
    items = list(items)
    processes = min(usable_cores(), -(-len(items) // chunk), MAX_PROCESSES)
    alone = processes <= 1
    with nullcontext() if alone else ProcessPoolExecutor(processes, initializer=start_worker) as pool:
        results = map(function, items) if alone else pool.map(function, items, chunksize=chunk)
        yield from tqdm(results, description, total=len(items), leave=False, disable=None)


def start_worker():
    """Leave Ctrl-C to the parent, because a worker would print a traceback, and end with a parent that is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)


def in_threads(function, items, threads):
    """Yield `function(item)` of each item, in order, computed ahead by some threads, or when asked for by none.

    At most twice as many results as threads wait to be taken. The first error ends it, and closes a generator `items`.
    """
    with closing(items) if hasattr(items, "close") else nullcontext():
        if not threads:
            yield from map(function, items)
            return
        with ThreadPoolExecutor(threads) as pool:
            waiting = deque()
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            yield from (future.result() for future in waiting)
