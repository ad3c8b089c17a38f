"""Score predictions by the IoU of each class and write iou_scores.txt.

python iouclass.py --submit_dir predictions --truth_dir dataset/val/val_mask
"""

from faceparse.errors import run_script
from options import score_parser


def format_file(scores):
    from faceparse.inference.metrics import format_score

    lines = [f"Class {index}: IoU = {format_score(iou)}" for index, iou in enumerate(scores.iou)]
    return "\n".join([*lines, "", f"Mean IoU (mIoU, average across all classes): {format_score(scores.miou)}", ""])


def main(args):
    from faceparse.inference.metrics import write_scores  # here, so that --help need not wait for numpy

    write_scores(args, "iou_scores.txt", format_file)


if __name__ == "__main__":
    run_script(lambda: main(score_parser(__doc__).parse_args()))
