import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from traitlens import analyze_dynamics
from traitlens.dynamics import commitment_point, onset, persistence, smoothed
from traitlens.settling import settling_p_value

EXAMPLE = [0.5, 2.3, 2.1, 1.8, 1.5, 1.2, 0.8]
TRAJECTORIES = st.lists(st.integers(-50, 50), min_size=0, max_size=40)


def test_the_documented_example_gives_its_documented_dynamics():
    found = analyze_dynamics(EXAMPLE)
    assert (found.commitment_point, found.persistence, found.peak) == (2, 3, 1)
    assert found.peak_velocity == pytest.approx(1.8)
    assert found.avg_velocity == pytest.approx(0.55)
    assert found.velocity_profile == pytest.approx([1.8, -0.2, -0.3, -0.3, -0.3, -0.4])
    assert found.acceleration_profile == pytest.approx([-2.0, -0.1, 0.0, 0.0, -0.1], abs=1e-6)


def bending(*accelerations):
    """A trajectory with these second differences."""
    return np.cumsum(np.cumsum([0.0, 0.0, *accelerations]))


def test_calm_is_under_a_tenth_of_the_largest_acceleration():
    assert commitment_point(bending(100, -60, 10.5, -9.5, 80)) == 4
    assert commitment_point(bending(100, -60, 10.5, -6)) == 4  # a tenth, not a twentieth
    assert analyze_dynamics(bending(100, -60, 10.5, -9.5, 80)).commitment_point == 4
    assert analyze_dynamics(bending(100, -60, 10.5, -6)).commitment_point == 4
    assert analyze_dynamics(bending(100, -60, 10.5, -9.5, 80), drop=0.7).commitment_point == 2
    assert commitment_point(bending(8, -2, 1), drop=0.25) == 3  # a quarter is not under a quarter


def test_without_a_baseline_scores_are_taken_as_they_are():
    assert analyze_dynamics([1.0, 3.0, 2.0], threshold=2.5) == analyze_dynamics(
        [1.0, 3.0, 2.0], baseline=0.0, threshold=2.5
    )
    assert analyze_dynamics([2.5, 3.0], threshold=2.5).onset == 1  # at the threshold is not above it


def test_velocities_are_measured_by_their_size():
    found = analyze_dynamics([5.0, 0.0, 1.0])
    assert (found.peak_velocity, found.avg_velocity, found.peak) == (5.0, 3.0, 0)
    assert {type(found.peak_velocity), type(found.avg_velocity)} == {float}


def test_results_are_plain_values_that_json_knows():
    found = dataclasses.asdict(analyze_dynamics(np.float32(EXAMPLE), threshold=1.0, permutations=9))
    assert json.loads(json.dumps(found)) == found
    assert {type(found[name]) for name in ("commitment_point", "persistence", "peak", "onset", "smoothing")} <= {
        int,
        type(None),
    }


def test_a_trajectory_that_is_calm_from_the_start_settles_nothing():
    found = analyze_dynamics([0, 0, 0, 5] * 6)
    assert found.commitment_point == 1
    assert found.commitment_p_value is None  # one token before it has no spread


def test_more_tokens_than_the_window_are_averaged_over_what_there_is():
    assert smoothed([1.0, 2.0, 6.0], 7).tolist() == [3.0, 3.0, 3.0]
    assert smoothed([1.0, 2.0, 6.0, 3.0], 5).tolist() == [3.0, 3.0, 3.0, 11 / 3]
    assert smoothed([], 3).tolist() == []
    assert smoothed([4.0], 3).tolist() == [4.0]


@given(TRAJECTORIES)
@settings(max_examples=60, deadline=None)
def test_profiles_are_one_and_two_shorter_than_the_trajectory(scores):
    found = analyze_dynamics(scores, permutations=9)
    assert len(found.velocity_profile) == max(len(scores) - 1, 0)
    assert len(found.acceleration_profile) == max(len(scores) - 2, 0)


@given(TRAJECTORIES.filter(lambda scores: len(scores) > 2), st.sampled_from([0.25, 8.0]), st.integers(-64, 64))
@settings(max_examples=60, deadline=None)
def test_points_do_not_depend_on_the_unit_of_activation_or_the_baseline(scores, unit, baseline):
    found = analyze_dynamics(scores, permutations=19)
    other = analyze_dynamics([s * unit + baseline for s in scores], baseline=baseline, permutations=19)
    for name in ("commitment_point", "commitment_p_value", "persistence", "peak"):
        assert getattr(other, name) == getattr(found, name), name
    assert other.peak_velocity == pytest.approx(found.peak_velocity * unit)


@pytest.mark.parametrize("scores", [[], [1.0], [1.0, 3.0]])
def test_what_too_few_tokens_do_not_define_is_none(scores):
    found = analyze_dynamics(scores, threshold=2.0)
    assert found.commitment_point is None
    assert found.commitment_p_value is None
    assert (found.peak_velocity is None) == (len(scores) < 2)
    assert (found.avg_velocity is None) == (len(scores) < 2)
    assert (found.persistence is None) == (not scores)
    assert (found.peak is None) == (not scores)


@pytest.mark.parametrize("scores", [[2.0] * 6, [0.0, 1.0, 2.0, 3.0]])
def test_a_straight_line_commits_nowhere(scores):
    assert commitment_point(scores) is None


def test_commitment_is_the_first_token_after_the_largest_change_calms_down():
    assert commitment_point([0, 0, 10, 10, 10.5, 10, 10]) == 3
    assert commitment_point([0, 0, 10, 10, 10.5, 10, 10], drop=0.01) is None


@pytest.mark.parametrize(
    ("scores", "tokens"),
    [
        ([5, 1, 2], 0),
        ([0, 4, 4, 3, 1, 4], 2),
        ([1, 2, 9], 0),
        ([3, 3, 3], 0),
        ([-9, -1, -2], 1),
        ([0, 4, 2, 3], 0),
        ([7], 0),
        ([4, 0, 4, 3], 0),
        ([0, 8, 5, 5, 5], 3),
    ],
)
def test_persistence_counts_the_tokens_above_half_height_right_after_the_peak(scores, tokens):
    assert persistence(scores) == tokens


def test_onset_is_where_the_score_rises_for_good():
    assert onset([3, 0, 3, 3], 2.0) == 2
    assert onset([3, 3], 2.0) == 0
    assert onset([3, 3, 2], 2.0) is None
    assert onset([3, 2, 3], 2.0) == 2
    assert onset([], 2.0) is None
    assert onset([3], 2.0) == 0


def test_onset_is_judged_by_the_raw_threshold():
    scores = [100.0, 104.0, 101.0]
    assert analyze_dynamics(scores, baseline=100.0).onset is None
    assert analyze_dynamics([0.0, 104.0, 104.0], baseline=100.0, threshold=103.0).onset == 1


LONG = [0.5, 1.3, 0.7, 7.4, 5.9, 5.5, 5.1, 7.0, 6.2, 7.9, 6.3, 5.1, 7.5, 6.4, 6.6, 5.8]


def test_the_p_value_is_the_same_each_time_and_can_be_left_out():
    found = analyze_dynamics(LONG)
    assert found.commitment_p_value is not None
    assert found == analyze_dynamics(LONG, permutations=999, seed=0, drop=0.1, smoothing=1)
    assert found.commitment_p_value != analyze_dynamics(LONG, permutations=9).commitment_p_value
    assert analyze_dynamics(LONG, permutations=0).commitment_p_value is None
    assert analyze_dynamics(EXAMPLE).commitment_p_value is None  # five tokens from the point on tell nothing


def test_the_p_value_is_of_the_scores_as_they_were_before_smoothing():
    found = analyze_dynamics(LONG, smoothing=3, baseline=1.0)
    centred = np.array(LONG) - 1.0
    assert found.commitment_p_value == settling_p_value(centred, found.commitment_point)
    assert found.commitment_p_value != settling_p_value(smoothed(centred, 3), found.commitment_point)


def test_smoothing_averages_before_anything_is_computed_and_is_stated():
    scores = [0.0, 9.0, 0.0, 9.0, 0.0]
    found = analyze_dynamics(scores, smoothing=3)
    assert found.smoothing == 3
    assert found.velocity_profile == pytest.approx(np.diff([4.5, 3.0, 6.0, 3.0, 4.5]).tolist())
    assert found.peak == 2
    unrounded = [0.1, 0.2, 0.3, 1e9, 0.7]
    assert smoothed(unrounded, 1).tolist() == unrounded  # a difference of running sums would round


@pytest.mark.parametrize("window", [0, 2, 4, -1])
def test_a_smoothing_window_without_a_middle_is_refused(window):
    with pytest.raises(ValueError, match="odd number of tokens"):
        analyze_dynamics(EXAMPLE, smoothing=window)


@pytest.mark.parametrize(
    ("scores", "found"), [([1.0, math.nan], "NaN"), ([[1.0, 2.0]], "shape [1, 2]"), (7.0, "shape []")]
)
def test_what_is_not_one_number_per_token_is_refused(scores, found):
    with pytest.raises(ValueError, match="one finite score per token") as error:
        analyze_dynamics(scores)
    assert found in str(error.value)


def test_tensors_arrays_and_lists_are_the_same():
    assert analyze_dynamics(torch.tensor(EXAMPLE)) == analyze_dynamics(np.float32(EXAMPLE))
    assert analyze_dynamics(EXAMPLE).commitment_point == analyze_dynamics(torch.tensor(EXAMPLE)).commitment_point


def test_an_offset_costs_the_scores_digits_unless_it_is_the_baseline():
    small = [0.0, 1e-8, 3e-8, 3e-8]
    assert analyze_dynamics(small).velocity_profile == pytest.approx([1e-8, 2e-8, 0.0])
    far = [2.0**20 + x for x in (0.0, 2.0**-10, 3 * 2.0**-10)]
    assert analyze_dynamics(far, baseline=2.0**20).velocity_profile == [2.0**-10, 2.0**-9]


@pytest.mark.parametrize("score", [1e37, -1e37])
def test_the_largest_score_is_the_last_one_whose_differences_float32_holds(score):
    with pytest.raises(ValueError, match="beyond float32"):
        analyze_dynamics([0.0, score])
    found = analyze_dynamics([0.0, score * 0.999, 0.0])
    assert math.isfinite(found.acceleration_profile[0])


def test_what_was_found_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        analyze_dynamics([0.0, 1.0]).persistence = 3
