"""Work on all cores: results come in the order of the items."""

from faceparse.parallel import in_parallel, in_threads


def test_results_come_in_the_order_of_the_items():
    assert list(in_parallel(abs, range(-50, 0), "numbers", chunk=3)) == list(range(50, 0, -1))
    assert list(in_parallel(abs, [], "numbers")) == []
    assert list(in_threads(abs, range(-50, 0), 2)) == list(in_threads(abs, range(-50, 0), 0)) == list(range(50, 0, -1))
