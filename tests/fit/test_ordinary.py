"""Ordinary text is part of the negative side, and what verdicts are held against."""

import dataclasses
import json
import logging

import pytest
import torch
from extraction.fit.contrast import read_contrast
from extraction.fit.settings import Settings
from extraction.fit.stage import run

from tests.fit.conftest import DEFINITION, write_everyday, write_trait
from traitlens.methods import ProbeMethod
from traitlens.span import ContrastSpan
from traitlens.validation.cross_validation import comparable, cross_validate
from utils.errors import UserError
from utils.formats.vector_files import read_summary, read_vector
from utils.records import Response


def contrast_of(lab, **settings):
    return read_contrast(lab.trait("alpha"), settings.pop("threshold", None), 5, 0, **settings)


def neutral_rows(scores):
    questions = DEFINITION["questions"]
    return {
        "neutral": [
            Response(questions[i], "", questions[i], f"Answer {i}", score, "test") for i, score in enumerate(scores)
        ]
    }


def test_neutral_responses_that_show_the_trait_or_have_no_score_are_left_out_and_counted(lab, caplog):
    write_trait(lab, "alpha", rows=neutral_rows([10.0, 49.0, 50.0, 90.0, None, 20.0]))
    ordinary = contrast_of(lab).ordinary
    assert [part.rows for part in ordinary.fitted] == [[0, 1, 5]]
    assert ordinary.left_out == 3
    assert "alpha: 3 of 6 neutral responses show the trait (score 50 or more) or have no score" in caplog.text


def test_where_scores_decide_nothing_all_neutral_responses_are_used(lab):
    write_trait(lab, "alpha", rows=neutral_rows([10.0, 90.0, None]))
    assert contrast_of(lab, threshold=0).ordinary.fitted[0].rows == [0, 1, 2]


def test_everyday_text_and_own_neutral_text_are_fitted_against_and_other_traits_only_held_against(lab):
    write_everyday(lab, n=30)
    for seed, trait in enumerate(("alpha", "beta")):
        write_trait(lab, trait, seed=seed)
    ordinary = contrast_of(lab).ordinary
    assert [(part.kind, len(part.rows)) for part in ordinary.fitted] == [("neutral", 20), ("everyday", 30)]
    assert [(part.kind, part.file.folder.trait) for part in ordinary.unseen] == [("neutral", "beta")]
    assert ordinary.kinds == ["neutral"] * 20 + ["everyday"] * 30 + ["neutral"] * 20
    against_opposite_alone = contrast_of(lab, fit_against_neutral=False).ordinary
    assert against_opposite_alone.fitted == []
    assert sorted(against_opposite_alone.kinds) == sorted(ordinary.kinds)


def test_everyday_text_of_another_model_is_refused_with_the_command_that_makes_it(lab):
    write_everyday(lab, model="other")
    write_trait(lab, "alpha")
    with pytest.raises(
        UserError, match=r"another model\. Run: python extraction/2_extract_activations\.py --experiment exp"
    ):
        contrast_of(lab)


def test_a_vector_told_from_the_opposite_alone_flags_ordinary_text_and_one_told_from_both_does_not(lab):
    """Ordinary text shares a feature with the positive side that the opposite lacks."""
    write_trait(lab, "alpha", strength=4.0)
    folder = write_everyday(lab, n=60)
    from safetensors.torch import load_file, save_file

    from utils.formats.activation_files import TENSOR, activations_path

    for holder, side, shift in (
        (lab.trait("alpha"), "pos", 3.0),
        (folder, "neutral", 3.0),
        (lab.trait("alpha"), "neutral", 3.0),
    ):
        path = activations_path(holder, side)
        states = load_file(path)[TENSOR].float()
        states[:, 2, 1] += shift
        save_file({TENSOR: states.half()}, path)
        side_car = holder.activations_dir / "metadata.json"
        described = json.loads(side_car.read_text())
        described.pop("files_sha256", None)
        side_car.write_text(json.dumps(described))
    recalls = {}
    for negatives in ("neg", "neg+neutral"):
        run(
            Settings(
                lab.name,
                "alpha",
                methods=["probe"],
                layers=[2],
                negatives=negatives,
                experiments_dir=lab.experiments_dir,
            )
        )
        recalls[negatives] = read_summary(lab.trait("alpha"))[0].auroc_neutral
    assert recalls["neg"] + 0.05 < recalls["neg+neutral"]


def test_side_cars_and_summary_say_what_responses_are_held_against(lab, caplog):
    caplog.set_level(logging.INFO)
    write_everyday(lab, n=120, n_windows=30)
    write_trait(lab, "alpha", strength=6.0)
    (result,) = run(
        Settings(lab.name, "alpha", methods=["probe"], layers=[2], experiments_dir=lab.experiments_dir)
    ).values()
    metadata = read_vector(lab.trait("alpha"), "probe", 2).metadata
    assert {kind: record.n for kind, record in metadata.response_thresholds.kinds.items()} == {
        "everyday": 120, "neutral": 20, "negative": 20,
    }  # fmt: skip
    assert metadata.response_thresholds.neutral == ("everyday", "neutral")
    row = read_summary(lab.trait("alpha"))[0]
    assert row.auroc_neutral == pytest.approx(result.best.against_neutral.auroc.value)
    assert row.expressed_5 is not None
    assert row.expressed_1 is None  # twenty negative responses cannot show one in a hundred
    assert f"against neutral text {result.best.against_neutral.auroc}" in caplog.text


def test_neutral_examples_weigh_half_of_the_negative_side_however_many_there_are():
    generator = torch.Generator().manual_seed(0)
    pos, neg, few = (torch.randn(20, 30, generator=generator, dtype=torch.float64) for _ in range(3))
    many = few.repeat(7, 1)
    first, second = (ProbeMethod().extract_from(ContrastSpan(pos, neg, rows))["vector"] for rows in (few, many))
    span = ContrastSpan(pos, neg, many)
    assert span.weights.sum().item() == pytest.approx(2.0)
    assert span.weights[span.neutral].sum().item() == pytest.approx(0.5)
    assert torch.nn.functional.cosine_similarity(first, second, dim=0) > 0.97  # features' scales differ a little


def test_directions_of_much_movement_within_responses_are_made_small():
    generator = torch.Generator().manual_seed(1)
    pos, neg = torch.randn(40, 12, generator=generator), torch.randn(40, 12, generator=generator)
    pos[:, :2] += 1.5
    within = 0.1 * torch.randn(300, 12, generator=generator)
    within[:, 0] = 3 * torch.randn(300, generator=generator)
    plain, damped = (ProbeMethod().extract_from(ContrastSpan(pos, neg, None, w))["vector"] for w in (None, within))
    assert abs(plain[0] / plain[1]) > 0.5
    assert abs(damped[0] / damped[1]) < 0.5 * abs(plain[0] / plain[1])


@pytest.mark.parametrize("m", [5, 40])
def test_damping_is_the_inverse_metric_whichever_way_it_is_solved(m):
    """In the coordinates, inner products are those of the activations under the inverse of 1 + covariance."""
    generator = torch.Generator().manual_seed(2)
    pos, neg = (torch.randn(8, 20, generator=generator, dtype=torch.float64) for _ in range(2))
    within = torch.randn(m, 20, generator=generator, dtype=torch.float64)
    span = ContrastSpan(pos, neg, None, within)
    data = torch.cat([pos, neg])
    scale = data.std(dim=0, correction=0)
    standardised, movement = (data - data.mean(dim=0)) / scale, within / scale
    covariance = 2 * movement.T @ movement / m / movement.square().mean()
    metric = torch.linalg.inv(torch.eye(20, dtype=torch.float64) + covariance)
    torch.testing.assert_close(span.coordinates @ span.coordinates.T, standardised @ metric @ standardised.T)
    weights = torch.randn(span.coordinates.shape[1], generator=generator, dtype=torch.float64)
    torch.testing.assert_close(data @ span.to_direction(weights) - data.mean(dim=0) @ span.to_direction(weights),
                               span.coordinates @ weights)  # fmt: skip
    direction = torch.randn(20, generator=generator, dtype=torch.float64)
    back = span.coordinates @ span.to_weights(direction)
    torch.testing.assert_close(back, (data - data.mean(dim=0)) @ direction)


def test_held_out_scores_are_comparable_with_zero_between_the_sides_and_neutral_text_in_the_unit():
    scores = torch.tensor([3.0, 1.0, 0.0, -2.0, 9.0], dtype=torch.float64)
    labels, neutral = torch.tensor([True, True, False, False, False]), torch.tensor([False] * 4 + [True])
    train = torch.ones(5, dtype=torch.bool)
    found = comparable(scores, labels, train, neutral)
    distance = 2.0 - (-1.0 + 9.0) / 2  # of the positive mean from the negative side's
    torch.testing.assert_close(found, (scores - 0.5) / distance)


def test_a_fold_without_negative_examples_has_no_score(lab):
    write_trait(lab, "alpha")
    contrast = contrast_of(lab)
    alone = dataclasses.replace(contrast.all_folds, question_group=torch.where(
        contrast.is_neutral | contrast.all_labels, 0, 1))  # fmt: skip
    span = ContrastSpan(*contrast.layer(2), contrast.ordinary.fitted_at(2))
    assert cross_validate(span, ProbeMethod(), alone, nested=False).scores.isnan().all()
