"""A side-car in, the same side-car out, whatever it knows."""

import json

import pytest

from utils.formats.vector_metadata import FitRecord, SummaryRow, VectorMetadata

PLACE = {"trait": "calm", "method": "probe", "layer": 2, "model": "m", "hidden_size": 3}


def test_keys_that_nobody_knows_are_kept_at_every_depth():
    foreign = {**PLACE, "licence": ["mit"], "metrics": {"n_pos": 3, "f1": 0.5}, "controls": {"length": {"note": "x"}}}
    written = VectorMetadata.from_json(foreign).to_json()
    assert {key: written[key] for key in foreign} == foreign
    assert VectorMetadata.from_json(json.loads(json.dumps(written))) == VectorMetadata.from_json(foreign)


def test_what_is_unknown_is_none_and_nothing_is_invented():
    metadata = VectorMetadata.from_json(PLACE)
    assert (metadata.baseline, metadata.metrics, metadata.choice, metadata.own_choice) == (None, None, None, None)
    assert {key for key, value in metadata.to_json().items() if value is not None} == set(PLACE)


def test_of_an_earlier_versions_losses_the_last_and_their_number_are_kept():
    fit = FitRecord.from_json({"loss_history": [-1.0, -2.5]})
    assert (fit.loss, fit.n_steps) == (-2.5, 2)
    assert fit.to_json() == {"loss": -2.5, "n_steps": 2}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"trait": None, "model": None}, "lacks trait, model"), ({"layer": "2"}, "'layer' is '2', not a whole number"),
        ({"method": "../x"}, "'../x' at layer 2 is not a method and a layer"), ({"best": 1}, "'best' is 1, not true or false"),
        ({"layer": 10**7}, "is not a method and a layer"), ({"versions": {"torch": 2}}, "'torch' is 2, not a text"),
        ({"counts": {"pos": 3}}, "'pos' is 3, not a JSON object"),
    ],
)  # fmt: skip
def test_a_side_car_of_another_form_is_refused_naming_the_key(changes, said):
    with pytest.raises(ValueError, match=said):
        VectorMetadata.from_json({**PLACE, **changes})


def test_a_row_of_the_summary_is_read_as_it_was_written():
    row = SummaryRow(method="007", layer=3, best=True, auroc=1.0, best_control="NA", n_pos=4)
    cells = {key: "" if value is None else str(value) for key, value in row.to_row().items()}
    assert SummaryRow.from_row(cells) == row
    assert SummaryRow.from_row({**cells, "n_pos": "4.0", "note": "1.50"}).to_row()["note"] == "1.50"
    with pytest.raises(ValueError, match="'auroc' is 'high', not a number"):
        SummaryRow.from_row({**cells, "auroc": "high"})
