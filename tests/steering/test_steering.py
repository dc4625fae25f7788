import contextlib

import pytest
import torch

from tests.conftest import small_model
from traitlens import ActivationCapture, HookManager, TraitMonitor, add_steering_hook, dose_response

IDS = torch.tensor([[1, 17, 42, 99, 7], [1, 5, 6, 210, 33]])


def _states(model, layer, vector=None, coefficient=1.0, at=None):
    capture = ActivationCapture()
    with HookManager(model) as hooks, torch.inference_mode():
        if vector is not None:
            add_steering_hook(hooks, vector, layer if at is None else at, coefficient)
        hooks.add_layer_hook(layer, capture.make_hook("state"))
        logits = model(IDS).logits
    return capture.get("state"), logits


@pytest.fixture
def vector():
    return torch.randn(32, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("layer", [0, 1, 3, 4])
def test_steering_adds_exactly_the_dose_at_its_layer_in_every_architecture(any_model, vector, layer):
    plain, _ = _states(any_model, layer)
    steered, _ = _states(any_model, layer, vector, 2.5)
    assert torch.equal(steered, plain + 2.5 * vector)


def test_layers_before_the_steered_one_do_not_change_and_later_ones_do(any_model, vector):
    for layer in range(5):
        same = torch.equal(_states(any_model, layer)[0], _states(any_model, layer, vector, at=2)[0])
        assert same == (layer < 2), layer


def test_steering_ends_with_the_block_to_the_last_bit_also_after_an_error(any_model, vector):
    _, before = _states(any_model, 2)
    _, steered = _states(any_model, 2, vector)
    assert not torch.equal(before, steered)
    with contextlib.suppress(KeyboardInterrupt), HookManager(any_model) as hooks:
        add_steering_hook(hooks, vector, 2)
        raise KeyboardInterrupt
    assert torch.equal(_states(any_model, 2)[1], before)


def test_a_dose_of_zero_changes_no_bit(any_model, vector):
    assert torch.equal(_states(any_model, 2)[1], _states(any_model, 2, vector, 0.0)[1])


def test_doses_of_two_hooks_add_up(vector):
    model = small_model("llama")
    other = vector.flip(0)
    plain, _ = _states(model, 2)
    capture = ActivationCapture()
    with HookManager(model) as hooks, torch.inference_mode():
        add_steering_hook(hooks, vector, 2, 3.0)
        add_steering_hook(hooks, other, 2, -1.0)
        hooks.add_layer_hook(2, capture.make_hook("state"))
        model(IDS)
    torch.testing.assert_close(capture.get("state"), plain + 3 * vector - other)


def test_a_half_precision_model_gets_the_float32_sum_rounded_once(vector):
    model = small_model("llama").to(torch.bfloat16)
    plain, _ = _states(model, 2)
    steered, _ = _states(model, 2, vector, 0.37)
    assert steered.dtype == torch.bfloat16
    assert torch.equal(steered, (plain.float() + 0.37 * vector).to(torch.bfloat16))


def test_generation_is_steered_at_every_new_token_as_a_second_pass_is(vector):
    model = small_model("llama")
    prompt = IDS[:1]
    arguments = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with HookManager(model) as hooks, torch.inference_mode():
        add_steering_hook(hooks, vector, 2, 4.0)
        generated = model.generate(prompt, **arguments)
        whole = model(generated).logits[0, 4:-1].argmax(dim=-1)
    assert torch.equal(whole, generated[0, 5:])
    with torch.inference_mode():
        assert not torch.equal(model.generate(prompt, **arguments), generated)


def test_a_monitor_at_the_steered_layer_reads_the_dose(vector):
    model = small_model("gemma2")
    dose = 4.0 / vector.norm()
    with TraitMonitor(model, {"trait": (vector, 3)}) as monitor, torch.inference_mode():
        model(IDS[:1])
    plain = monitor.scores()["trait"]
    with HookManager(model) as hooks, torch.inference_mode():
        add_steering_hook(hooks, vector, 3, float(dose))
        with TraitMonitor(model, {"trait": (vector, 3)}) as monitor:
            model(IDS[:1])
    torch.testing.assert_close(monitor.scores()["trait"], plain + 4.0, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("bad", [torch.zeros(2, 32), torch.tensor([float("nan")] * 32)])
def test_a_vector_that_is_not_one_finite_direction_is_refused(bad):
    with pytest.raises(ValueError, match="wanted finite"):
        add_steering_hook(HookManager(small_model("llama")), bad, 2)


def test_a_vector_of_another_hidden_size_names_both_sizes():
    model = small_model("llama")
    with HookManager(model) as hooks:
        add_steering_hook(hooks, torch.ones(48), 2)
        with pytest.raises(ValueError, match="hidden size 48 but layer 2 has 32"):
            model(IDS)


def test_a_layer_that_the_model_lacks_is_refused(vector):
    with pytest.raises(ValueError, match=r"outside 0\.\.4"):
        add_steering_hook(HookManager(small_model("llama")), vector, 5)


@pytest.mark.parametrize("n_prompts", [4, 20])
def test_the_dose_response_recovers_a_planted_slope_and_its_interval_covers_it(n_prompts):
    generator = torch.Generator().manual_seed(0)
    doses = [-1.0, -0.5, 0.0, 0.5, 1.0]
    covered = 0
    for _ in range(1000):
        slopes = 2 + torch.randn(n_prompts, 1, generator=generator)
        readouts = slopes * torch.tensor(doses) + 0.3 * torch.randn(n_prompts, 5, generator=generator)
        found = dose_response(doses, readouts)
        covered += found.low <= 2 <= found.high
    assert 930 <= covered <= 970
    assert found.share_right > 0.7


def test_one_prompt_has_a_slope_and_no_interval():
    found = dose_response([0.0, 1.0], torch.tensor([[1.0, 3.0]]))
    assert (found.slope, found.low, found.high, found.n_prompts) == (2.0, None, None, 1)


def test_slopes_of_prompts_with_gaps_are_those_of_their_known_points():
    nan = float("nan")
    readouts = torch.tensor([[1.0, nan, 3.0, 7.0], [nan, 2.0, 0.0, 0.0], [5.0, nan, nan, nan]])
    doses = [0.1, 0.2, 0.4, 0.4]
    assert dose_response(doses, readouts[:1]).slope == pytest.approx(4 / 0.3)
    assert dose_response(doses, readouts[1:]).slope == pytest.approx(-10)
    with pytest.raises(ValueError, match="no prompt"):
        dose_response(doses, torch.tensor([[nan, nan, 0.0, 1.0]]))


def test_missing_readouts_are_left_out_not_read_as_zero():
    nan = float("nan")
    readouts = torch.tensor([[1.0, nan, 3.0], [nan, nan, 5.0]])
    found = dose_response([0.0, 1.0, 2.0], readouts)
    assert (found.slope, found.n_prompts) == (1.0, 1)
    with pytest.raises(ValueError, match="no prompt"):
        dose_response([0.0, 1.0, 2.0], readouts[1:])


def test_readouts_that_are_not_one_per_dose_are_refused():
    with pytest.raises(ValueError, match=r"2 doses but readouts \[1, 3\]"):
        dose_response([0.0, 1.0], torch.zeros(1, 3))
