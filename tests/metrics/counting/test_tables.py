"""Tables of counts show what there is."""

from dataclasses import replace

from ifuvit.metrics.counting.parsing import Asked, AskedRelation
from ifuvit.metrics.counting.scores import Detection, score
from ifuvit.metrics.counting.tables import counts_table, errors_table
from ifuvit.results import CountedImage, ObjectCounts, ScoresAtThreshold


def test_counts_and_errors():
    found = [
        [Detection("bus", 1.0, 30.0, 0.9)],
        [Detection("bus", 1.0, 30.0, 0.9), Detection("apple", 60.0, 30.0, 0.9)],
    ]
    scores = score([Asked("bus", 2), AskedRelation("bus", "left of", "apple")], found)
    assert scores.counts is not None
    images = tuple(
        CountedImage(file="x", prompt=prompt, counted=counted)
        for prompt, counted in (("a", {}), ("b", {}), ("oh", None))
    )
    at = ScoresAtThreshold(threshold=0.25, counts=scores.counts.overall)
    text = counts_table(ObjectCounts(counts=scores.counts, relations=scores.relations, thresholds=(at,), images=images))
    assert text.startswith("2 of 3 images counted") and "1 not counted" in text and "'oh'" in text
    assert "left of             1" in text and "0.25                1" in text
    lines = errors_table({"clean": scores, "blurred": replace(scores, relations=None)}).splitlines()
    assert lines[-2].split() == ["clean", "0.00", "100.00", "100.00", "0.00"]
    assert lines[-1].split() == ["blurred", "0.00", "-", "-", "0.00"]
    only_asked = score([Asked("zebra", 7)], [[]], every_kind=False)
    text = counts_table(ObjectCounts(counts=only_asked.counts, images=images))
    assert "right kind" not in text and "average error" in text
