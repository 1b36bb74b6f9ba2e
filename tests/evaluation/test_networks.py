"""Networks of evaluation by name, and one line for what cannot be loaded."""

import json

import pytest

from ifuvit.evaluation.networks import load_alignment_model, load_counter, open_counter
from ifuvit.metrics.counting.counter_network import ObjectCounter, ObjectCounterConfig
from ifuvit.utils.errors import InputError


def test_the_shipped_ones():
    assert load_alignment_model("two-tower", prefix="see ").prefix == "see "
    counter = load_counter()
    assert counter.name == "openmoji" and set(counter.errors) == {"clean", "blurred", "noisy", "reconstructed"}
    assert open_counter("openmoji", detector=None).facts() == counter.facts()


def test_what_cannot_be_loaded(tmp_path):
    with pytest.raises(InputError, match="the models are two-tower and clip"):
        load_alignment_model("blip")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no such folder"):
        load_alignment_model("clip", weights=tmp_path / "none")
    with pytest.raises(InputError, match=r"shipped names \(openmoji\)"):
        load_counter(tmp_path / "none")
    with pytest.raises(InputError, match="no object counter"):
        load_counter(tmp_path)
    ObjectCounter(ObjectCounterConfig(width=8)).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"manifest\.json"):
        load_counter(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match="has no 'errors'"):
        load_counter(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"errors": {"clean": {"counts": 7}}}))
    with pytest.raises(InputError, match=r"manifest\.json: errors: counts"):
        load_counter(tmp_path)
    with pytest.raises(InputError, match="--threshold is for --detector"):
        open_counter("openmoji", detector=None, threshold=0.3)
    with pytest.raises(InputError, match=r"--threshold 1\.2: must be between 0 and 1"):
        open_counter("openmoji", detector="any", threshold=1.2)
    with pytest.raises(InputError, match="no such folder"):
        open_counter("openmoji", detector=str(tmp_path / "none"))
