import pytest

from perception_node.stamps import irregularities


@pytest.mark.parametrize(
    ("stamps_ms", "words"),
    [
        ([], []),
        ([5], []),
        ([0, 100, 200, 300], []),
        ([0, 100, 200, 440], []),  # one image may be missing
        (
            [0, 100, 200, 460, 560, 1060],
            ["2 gaps, the longest 0.500 s from f4 to f5, where 0.100 s are usual"],
        ),
        ([0, 100, 50, 150], ["stamps go back once, at first by 0.050 s from f1 to f2"]),
        ([0, 100, 0, 100, 0, 100], ["stamps go back 2 times, at first by 0.100 s from f1 to f2"]),
        ([0, 100, 100, 200], ["stamps repeat once, at first from f1 to f2"]),
        ([7, 7, 7], ["stamps repeat 2 times, at first from f0 to f1"]),
        ([9, 5], ["stamps go back once, at first by 0.004 s from f0 to f1"]),
    ],
)
def test_what_is_odd_is_said(stamps_ms, words):
    names = [f"f{index}" for index in range(len(stamps_ms))]
    assert irregularities(names, [stamp * 10**6 for stamp in stamps_ms]) == words
