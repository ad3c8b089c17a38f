"""Say how surely one network scores better than another on the same photographs, by a paired bootstrap.

python -m tools.compare_scores predictions_before predictions_after --truth_dir dataset/corrected/val_mask

Each draw takes as many photographs as there are, with replacement, the same ones for both (Efron, 1979).
"""

import numpy as np

from faceparse.data.classes import find_class_set
from faceparse.errors import run_script
from faceparse.inference.metrics import Scores, score_folders
from options import compare_scores_parser

DRAWS = 2000


def differences(before, after, draws=DRAWS):
    """Return (mIoU, macro F1) after minus those before, [1 + draws, 2]: first of all photographs, then of the draws.

    before, after: the confusion matrices of each photograph, [n, C, C].
    """
    count = len(before)
    drawn = np.random.default_rng(0).multinomial(count, [1 / count] * count, draws)
    times = np.concatenate([np.ones((1, count), int), drawn])  # how often each photograph is in a draw
    sums = ([Scores(matrix) for matrix in np.tensordot(times, each, 1)] for each in (after, before))
    later, earlier = (np.array([(each.miou, each.macro_f1) for each in scores]) for scores in sums)
    return later - earlier


def main(args):
    class_set = find_class_set(args.classes)
    before, after = (score_folders(folder, args.truth_dir, class_set)[0] for folder in (args.before, args.after))
    found = differences(before, after)
    print(f"{len(before)} photographs, {DRAWS} draws")
    print("           before     after  difference     95 % of the draws  better in")
    for column, (name, score) in enumerate((("mIoU", "miou"), ("macro F1", "macro_f1"))):
        values = [getattr(Scores(each.sum(axis=0)), score) for each in (before, after)]
        low, high = np.quantile(found[1:, column], (0.025, 0.975))
        better = (found[1:, column] > 0).mean()
        row = f"{name:9} {values[0]:7.4f}   {values[1]:7.4f} {found[0, column]:+11.4f}"
        print(f"{row}      {low:+.4f}, {high:+.4f} {better:10.1%}")


if __name__ == "__main__":
    run_script(lambda: main(compare_scores_parser(__doc__).parse_args()))
