"""Score predictions by mean IoU over the classes and write scores.txt.

python evaluate.py --submit_dir predictions --truth_dir dataset/val/val_mask
"""

from faceparse.errors import run_script
from options import score_parser


def format_file(scores):
    return f"mIOU: {100 * scores.miou}"


def main(args):
    from faceparse.inference.metrics import write_scores  # here, so that --help need not wait for numpy

    write_scores(args, "scores.txt", format_file)


if __name__ == "__main__":
    run_script(lambda: main(score_parser(__doc__).parse_args()))
