"""Measure prepare_celebamask.py beside its floor, decoding what it reads, and print a row of a table.

python -m benchmarks.preparation
python -m benchmarks.preparation --floor DOWNLOAD    # decode all files of a download, and nothing else

Seconds are those of the processor, all processes together. The faces are drawn, 20 different ones, in the official
layout and sizes: photographs of 1024 px, parts of 512 px.
"""

import argparse
import tempfile
from pathlib import Path
from statistics import median

from downloads import make_celebamask_download

from benchmarks.measure import decode, run_python
from faceparse.errors import run_script
from faceparse.parallel import in_parallel
from options import positive_int

DISTINCT = 20


def parse_args():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.preparation", description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=positive_int, default=1000, help="photographs to prepare")
    parser.add_argument("--repeats", type=positive_int, default=3, help="runs of which the median is taken")
    parser.add_argument("--floor", metavar="DOWNLOAD", help="only decode the photographs and parts of a download")
    return parser.parse_args()


def main(args):
    if args.floor:
        files = [path for suffix in ("jpg", "png") for path in Path(args.floor).rglob(f"*.{suffix}")]
        list(in_parallel(decode, files, "decoding"))
        return
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "download"
        make_celebamask_download(source, [170000, *range(1, args.pictures)], distinct=min(DISTINCT, args.pictures))
        measured = []
        for repeat in range(args.repeats):
            flags = ("--source", source, "--output_dir", Path(folder) / f"prepared_{repeat}")
            floor = run_python("-m", "benchmarks.preparation", "--floor", source)
            first = run_python("-m", "tools.prepare_celebamask", *flags)
            again = run_python("-m", "tools.prepare_celebamask", *flags)  # only checks the result
            names = ("processor_seconds", "processor_seconds", "processor_seconds", "peak_mib")
            measured.append([each[name] for each, name in zip((floor, first, again, first), names, strict=True)])
        floor, first, again, peak = (median(values) for values in zip(*measured, strict=True))
    print("| pictures | decoding alone, s | `prepare_celebamask.py`, s | of it the last checks | ratio | peak, MiB |")
    print("|---|---|---|---|---|---|")
    print(f"| {args.pictures} | {floor:.1f} | {first:.1f} | {again:.1f} | {first / floor:.2f} | {peak:.0f} |")


if __name__ == "__main__":
    run_script(lambda: main(parse_args()))
