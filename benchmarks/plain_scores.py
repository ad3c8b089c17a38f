"""A plain score script, which goes file by file and class by class, with a mask of the whole picture for each count.

python -m benchmarks.plain_scores {evaluate,f1score,iouclass} SUBMIT_DIR TRUTH_DIR
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

NUM_CLASSES = 19


def iou_of_classes(pairs):
    intersection, union = np.zeros(NUM_CLASSES), np.zeros(NUM_CLASSES)
    for prediction, truth in pairs:
        for index in range(NUM_CLASSES):
            intersection[index] += np.logical_and(prediction == index, truth == index).sum()
            union[index] += np.logical_or(prediction == index, truth == index).sum()
    return intersection / union


def f1_of_classes(pairs):
    hits, false_alarms, misses = (np.zeros(NUM_CLASSES) for _ in range(3))
    for prediction, truth in pairs:
        for index in range(NUM_CLASSES):
            hits[index] += np.logical_and(prediction == index, truth == index).sum()
            false_alarms[index] += np.logical_and(prediction == index, truth != index).sum()
            misses[index] += np.logical_and(prediction != index, truth == index).sum()
    return 2 * hits / (2 * hits + false_alarms + misses)


def read_pairs(submit_dir, truth_dir):
    for truth in sorted(Path(truth_dir).iterdir()):
        yield np.array(Image.open(Path(submit_dir) / truth.name)), np.array(Image.open(truth))


def main():
    script, submit_dir, truth_dir = sys.argv[1:]
    scores = {"evaluate": iou_of_classes, "iouclass": iou_of_classes, "f1score": f1_of_classes}[script]
    print(f"{np.nanmean(scores(read_pairs(submit_dir, truth_dir))):.6f}")


if __name__ == "__main__":
    main()
