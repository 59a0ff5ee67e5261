"""What a stage says of its own speed."""

from evaluation.progress import generating


def test_a_rate_is_told_once_a_twentieth_is_there():
    assert [generating(8, 4.0, number / 128, "1 min") for number in (1, 6)] == ["", ""]
    assert generating(70, 10.0, 7 / 128, "2 min 53 s") == "7 tokens/s, 2 min 53 s left"
    assert generating(500, 10.0, 1.0, "0.0 s") == "50 tokens/s, 0.0 s left"
