"""Score predictions by precision, recall and F1 of each class and write scores_with_f1_precision_recall.txt.

python f1score.py --submit_dir predictions --truth_dir dataset/val/val_mask
python f1score.py --per_image
"""

from faceparse.errors import run_script
from options import f1score_parser


def format_file(scores):
    from faceparse.inference.metrics import format_score

    lines = [
        "Class {}: Precision = {}, Recall = {}, F1-score = {}".format(index, *map(format_score, values))
        for index, values in enumerate(zip(scores.precision, scores.recall, scores.f1, strict=True))
    ]
    means = {"Precision": scores.macro_precision, "Recall": scores.macro_recall, "F1-score": scores.macro_f1}
    lines.append("")
    lines += [f"Macro {name} (average across all classes): {format_score(value)}" for name, value in means.items()]
    return "\n".join([*lines, ""])


def main(args):
    from faceparse.inference.metrics import write_scores  # here, so that --help need not wait for numpy

    f1_of_images = write_scores(args, "scores_with_f1_precision_recall.txt", format_file)
    if args.per_image:
        print(f"F1 per image, over the classes of its truth, averaged over images: {f1_of_images:.4f}")


if __name__ == "__main__":
    run_script(lambda: main(f1score_parser(__doc__).parse_args()))
