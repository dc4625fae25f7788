import pytest
import torch

from tests.conftest import small_model
from traitlens import ActivationCapture, HookManager, layer_path, mean_activations, n_layers

LENGTHS = (9, 4, 6)


def _batch(side):
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randint(3, 300, (n,), generator=generator) for n in LENGTHS]
    input_ids, mask = torch.zeros(3, 9, dtype=torch.long), torch.zeros(3, 9, dtype=torch.long)
    for i, row in enumerate(rows):
        where = slice(0, len(row)) if side == "right" else slice(9 - len(row), 9)
        input_ids[i, where], mask[i, where] = row, 1
    return rows, input_ids, mask


def _hidden_states(model, input_ids):
    """transformers' own, with the last one before the final norm, which its list has only after it."""
    last_input = []
    blocks_end = layer_path(model, n_layers(model) - 1)
    handle = model.get_submodule(blocks_end).register_forward_hook(
        lambda module, inputs, output: last_input.append(output[0] if isinstance(output, tuple) else output)
    )
    with torch.no_grad():
        states = model(input_ids, output_hidden_states=True).hidden_states
    handle.remove()
    return [*states[:-1], last_input[0]]


def test_captured_layers_are_transformers_hidden_states(any_model):
    _, input_ids, _ = _batch("right")
    capture = ActivationCapture()
    with HookManager(any_model) as hooks, torch.no_grad():
        for layer in range(5):
            hooks.add_layer_hook(layer, capture.make_hook(str(layer)))
        any_model(input_ids[:1])
    for layer, expected in enumerate(_hidden_states(any_model, input_ids[:1])):
        torch.testing.assert_close(capture.get(str(layer)), expected, msg=f"layer {layer}")


def test_means_over_a_padded_batch_equal_those_of_each_row_alone(any_model):
    rows, input_ids, mask = _batch("right")
    token_mask = mask.bool().clone()
    token_mask[:, :2] = False  # the first two tokens stand for a prompt
    batch = mean_activations(any_model, input_ids, mask, token_mask, range(5))
    assert batch.shape == (3, 5, 32)
    assert batch.dtype == torch.float32
    for i, row in enumerate(rows):
        expected = torch.stack([h[0, 2:].mean(dim=0) for h in _hidden_states(any_model, row[None])])
        torch.testing.assert_close(batch[i], expected, atol=2e-5, rtol=1e-4)


def test_padding_on_the_left_gives_the_same_means_as_padding_on_the_right(any_model):
    means = []
    for side in ("left", "right"):
        _, input_ids, mask = _batch(side)
        positions = (mask.cumsum(dim=1) - 1).clamp_min(0)
        original = any_model.forward
        any_model.forward = lambda **kwargs: original(**kwargs, position_ids=positions)  # noqa: B023
        means.append(mean_activations(any_model, input_ids, mask, mask.bool(), range(5)))
        any_model.forward = original
    torch.testing.assert_close(means[0], means[1], atol=2e-5, rtol=1e-4)


def test_only_the_blocks_up_to_the_deepest_layer_are_computed():
    model = small_model("llama")
    ran = []
    for i, block in enumerate(model.model.layers):
        block.register_forward_hook(lambda *_, i=i: ran.append(i))
    model.lm_head.register_forward_hook(lambda *_: ran.append("head"))
    _, input_ids, mask = _batch("right")
    mean_activations(model, input_ids, mask, mask.bool(), [2, 0])
    assert ran == [0, 1]
    ran.clear()
    mean_activations(model, input_ids, mask, mask.bool(), [4])
    assert "head" not in ran


def test_layers_come_back_in_the_order_asked_for():
    model = small_model("llama")
    _, input_ids, mask = _batch("right")
    forward = mean_activations(model, input_ids, mask, mask.bool(), [1, 3])
    backward = mean_activations(model, input_ids, mask, mask.bool(), [3, 1])
    torch.testing.assert_close(forward, backward.flip(1))


def test_no_hook_is_left_after_a_capture_or_an_error():
    model = small_model("llama")
    _, input_ids, mask = _batch("right")
    mean_activations(model, input_ids, mask, mask.bool(), range(5))

    def failing(module, inputs, hidden):
        raise RuntimeError("in a hook")

    with HookManager(model) as hooks:
        hooks.add_layer_hook(3, failing)
        with pytest.raises(RuntimeError, match="in a hook"), hooks:
            model(input_ids)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_row_without_response_tokens_is_an_error():
    _, input_ids, mask = _batch("right")
    token_mask = mask.bool().clone()
    token_mask[1] = False
    with pytest.raises(ValueError, match="row 1 has no token to average"):
        mean_activations(small_model("llama"), input_ids, mask, token_mask, [1])


def test_half_precision_means_are_accumulated_in_float32():
    model = small_model("llama", max_position_embeddings=4096).to(torch.bfloat16)
    input_ids = torch.randint(3, 300, (1, 3000), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(input_ids)
    capture = ActivationCapture()
    with HookManager(model) as hooks, torch.no_grad():
        hooks.add_layer_hook(2, capture.make_hook("h"))
        model.model(input_ids)
    exact = capture.get("h")[0].double().mean(dim=0)
    mean = mean_activations(model, input_ids, mask, mask.bool(), [2])[0, 0].double()
    assert (mean - exact).abs().max() < 1e-5


def test_under_generate_the_prompt_and_each_step_are_joined_along_the_sequence(any_model):
    _, input_ids, mask = _batch("left")
    capture = ActivationCapture()
    with HookManager(any_model) as hooks:
        hooks.add_layer_hook(3, capture.make_hook("layer_3"))
        output = any_model.generate(
            input_ids=input_ids,
            attention_mask=mask,
            max_new_tokens=5,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
    states = capture.get("layer_3")
    assert states.shape == (3, output.shape[1] - 1, 32)  # the last sampled token is never fed back
    alone = _hidden_states(any_model, output[:1, :-1])[3]  # row 0 has no padding
    torch.testing.assert_close(states[:1], alone, atol=2e-5, rtol=1e-4)
    assert capture.memory_usage() == states.numel() * 4
    capture.clear()
    assert capture.keys() == []


def test_a_name_never_captured_is_an_error_that_says_what_is_there():
    capture = ActivationCapture()
    with pytest.raises(KeyError, match="captured: nothing"):
        capture.get("layer_3")


def test_pieces_of_different_batches_are_not_joined():
    capture = ActivationCapture()
    hook = capture.make_hook("h")
    hook(None, (), torch.zeros(2, 3, 4))
    hook(None, (), torch.zeros(1, 3, 4))
    with pytest.raises(ValueError, match="call clear"):
        capture.get("h")


def test_an_unknown_path_names_the_nearest_modules():
    with HookManager(small_model("llama")) as hooks, pytest.raises(ValueError, match=r"nearest: .*model\.layers\.1"):
        hooks.add_forward_hook("model.layer.1", lambda *_: None)


def test_what_a_layer_hook_returns_replaces_the_layer(any_model):
    _, input_ids, _ = _batch("right")
    capture = ActivationCapture()
    for layer in (0, 2):
        with HookManager(any_model) as hooks, torch.no_grad():
            hooks.add_layer_hook(layer, lambda module, inputs, hidden: hidden + 1.0)
            hooks.add_layer_hook(layer, capture.make_hook("changed"))
            changed = any_model(input_ids).logits
        before = _hidden_states(any_model, input_ids)[layer]
        torch.testing.assert_close(capture.get("changed"), before + 1.0)
        assert not torch.allclose(changed, any_model(input_ids).logits)
        capture.clear()


def test_a_mask_of_another_shape_than_the_ids_is_refused():
    ids = torch.ones(1, 4, dtype=torch.long)
    with pytest.raises(ValueError, match=r"token_mask is \[1, 3\] but input_ids is \[1, 4\]"):
        mean_activations(small_model("llama"), ids, torch.ones_like(ids), torch.ones(1, 3).bool(), [1])
