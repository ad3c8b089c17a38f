"""Scores against hand-worked cases and a naive loop over classes."""

import numpy as np
import pytest

from faceparse.inference.metrics import Scores, confusion_matrix, format_table, per_image_f1

NAN = float("nan")


def naive_scores(truth, prediction, num_classes):
    """Return IoU, precision, recall and F1 of each class, counted with boolean masks."""
    truth, prediction = truth[truth != 255].astype(int), prediction[truth != 255].astype(int)
    rows = []
    for index in range(num_classes):
        is_true, is_predicted = truth == index, prediction == index
        hits = (is_true & is_predicted).sum()
        if not (is_true | is_predicted).any():
            rows.append((NAN, NAN, NAN, NAN))
            continue
        precision = hits / is_predicted.sum() if is_predicted.any() else 0
        recall = hits / is_true.sum() if is_true.any() else 0
        f1 = 2 * precision * recall / (precision + recall) if hits else 0
        rows.append((hits / (is_true | is_predicted).sum(), precision, recall, f1))
    return np.array(rows).T


def test_hand_worked_case():
    truth = np.array([[0, 0, 1], [1, 1, 255]], dtype=np.uint8)
    prediction = np.array([[0, 1, 1], [1, 2, 0]], dtype=np.uint8)
    matrix = confusion_matrix(truth, prediction, num_classes=4)
    assert matrix.dtype == np.int64
    assert matrix.tolist() == [[1, 1, 0, 0], [0, 2, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    scores = Scores(matrix)
    np.testing.assert_allclose(scores.iou, [1 / 2, 2 / 4, 0, NAN])
    np.testing.assert_allclose(scores.precision, [1, 2 / 3, 0, NAN])
    np.testing.assert_allclose(scores.recall, [1 / 2, 2 / 3, 0, NAN])
    np.testing.assert_allclose(scores.f1, [2 / 3, 2 / 3, 0, NAN])
    assert scores.miou == pytest.approx(1 / 3)
    assert scores.macro_f1 == pytest.approx(4 / 9)
    assert per_image_f1(matrix) == pytest.approx(2 / 3)  # class 2 is not in the truth


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_random_masks_agree_with_naive_loop(dtype):
    generator = np.random.default_rng(0)
    truth = generator.choice([*range(17), 255], (67, 41)).astype(dtype)  # classes 17 and 18 are not in the truth
    prediction = generator.integers(1, 18, (67, 41), dtype=dtype)  # 0 and 18 are never predicted
    scores = Scores(confusion_matrix(truth, prediction, 19))
    expected = naive_scores(truth, prediction, 19)
    np.testing.assert_allclose([scores.iou, scores.precision, scores.recall, scores.f1], expected)
    np.testing.assert_allclose(
        [scores.miou, scores.macro_precision, scores.macro_recall, scores.macro_f1], np.nanmean(expected, axis=1)
    )
    assert np.isnan(scores.iou[18]) and scores.iou[17] == 0 and scores.f1[0] == 0


def test_large_ids_and_sums_do_not_overflow():
    ids = np.full((8, 8), 254, dtype=np.uint8)
    assert confusion_matrix(ids, ids, num_classes=255)[254, 254] == 64
    np.testing.assert_allclose(Scores(np.full((19, 19), 2**40, dtype=np.int64)).iou, 1 / 37)


def test_wrong_ids_and_shapes_raise():
    """Unchecked, -1 would be counted as the last class of the true class before, and a row as if it were repeated."""
    zeros = np.zeros((2, 2), dtype=np.uint8)
    for wrong in (19, 255):
        with pytest.raises(ValueError, match=str(wrong)):
            confusion_matrix(zeros, np.full((2, 2), wrong, dtype=np.uint8), 19)
    with pytest.raises(ValueError, match="-1"):
        confusion_matrix(np.full((2, 2), -1), zeros, 19)
    for other in (np.zeros((2, 3), dtype=np.uint8), zeros[:1]):
        with pytest.raises(ValueError, match="differ in shape"):
            confusion_matrix(zeros, other, 19)


def test_table_has_means_without_the_background():
    """Of 3 pixels of the background one is found, of class 1 all, of class 2 one of two."""
    rows = [line.split() for line in format_table(Scores(np.array([[1, 1, 1], [0, 2, 0], [0, 1, 1]]))).splitlines()]
    recalls = (1 / 3, 1, 1 / 2)
    assert rows[1][:2] == ["0", "background"] and len(rows) == 6
    assert rows[-2][:1] == ["mean"] and float(rows[-2][3]) == pytest.approx(sum(recalls) / 3, abs=1e-4)
    assert rows[-1][:2] == ["mean", "1-2"] and float(rows[-1][4]) == pytest.approx(sum(recalls[1:]) / 2, abs=1e-4)
