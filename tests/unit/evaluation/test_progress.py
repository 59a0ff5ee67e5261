"""What a stage says of its own speed."""

from evaluation.progress import generating


def test_a_rate_is_told_once_a_twentieth_is_there():
    assert [generating(8, 4.0, number, 128) for number in (1, 6)] == ["", ""]
    assert generating(70, 10.0, 7, 128) == "7 tokens/s, 2 min 53 s left"
    assert (
        generating(20, 10.0, 1, 12) == "2 tokens/s, 1 min 50 s left"
        and generating(500, 10.0, 12, 12) == "50 tokens/s, 0.0 s left"
    )
