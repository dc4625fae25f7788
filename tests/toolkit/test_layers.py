import pytest
import torch
import transformers
from torch import nn

from tests.conftest import small_model
from traitlens import HookManager, find_blocks, hook_point, layer_path, middle_layer, n_layers


def test_a_layer_above_zero_is_the_output_of_the_block_before_it():
    model = small_model("llama")
    assert n_layers(model) == 5
    assert layer_path(model, 1) == "model.layers.0"
    assert layer_path(model, 4) == "model.layers.3"
    assert hook_point(model, 0).side == "input"
    assert hook_point(model, 0).path == "model.layers.0"


def test_layer_zero_has_no_module_whose_output_it_is():
    with pytest.raises(ValueError, match=r"input of model\.layers\.0"):
        layer_path(small_model("llama"), 0)


@pytest.mark.parametrize("layer", [-1, 5, 99])
def test_a_layer_that_the_model_lacks_is_refused(layer):
    with pytest.raises(ValueError, match=r"outside 0\.\.4 of LlamaForCausalLM"):
        hook_point(small_model("llama"), layer)


def test_documented_models_have_their_documented_layers_and_defaults():
    sizes = {
        transformers.Gemma2Config: ({"head_dim": 4}, 26, 27, 16, "model.layers.15"),
        transformers.LlamaConfig: ({}, 32, 33, 20, "model.layers.19"),
    }
    for config_class, (extra, blocks, layers, middle, path) in sizes.items():
        config = config_class(
            vocab_size=50, hidden_size=8, intermediate_size=8, num_attention_heads=2, num_key_value_heads=1,
            num_hidden_layers=blocks, **extra,
        )  # fmt: skip
        model = transformers.AutoModelForCausalLM.from_config(config)
        assert n_layers(model) == layers
        assert middle_layer(layers) == middle
        assert layer_path(model, middle) == path


class _Unknown(nn.Module):
    def __init__(self, blocks, experts):
        super().__init__()
        self.config = transformers.PretrainedConfig(num_hidden_layers=blocks)
        self.trunk = nn.ModuleList([nn.ModuleList([nn.Linear(2, 2) for _ in range(experts)]) for _ in range(blocks)])


def test_an_unknown_architecture_is_found_by_its_structure_even_with_as_many_experts_as_blocks():
    assert find_blocks(_Unknown(blocks=3, experts=3))[0] == "trunk"


def test_two_candidate_lists_of_blocks_are_an_error_that_names_both():
    model = _Unknown(blocks=3, experts=2)
    model.other = nn.ModuleList([nn.Linear(2, 2) for _ in range(3)])
    with pytest.raises(ValueError, match=r"trunk \(3\).*other \(3\)"):
        find_blocks(model)


def test_the_text_blocks_of_a_multimodal_model_are_chosen_over_its_vision_tower():
    text = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}  # fmt: skip
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
              "image_size": 28, "patch_size": 14}  # fmt: skip
    config = transformers.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    model = transformers.Gemma3ForConditionalGeneration(config).eval()
    path, _ = find_blocks(model)
    assert "vision" not in path
    ids = torch.randint(3, 300, (1, 6))
    seen = []
    handle = model.get_submodule(layer_path(model, 2)).register_forward_hook(lambda m, i, o: seen.append(o))
    model(input_ids=ids)
    handle.remove()
    assert len(seen) == 1


class TupleBlock(nn.Module):
    """Returns more than its hidden states, and takes them by name, as the blocks of some architectures do."""

    def forward(self, hidden_states):
        return hidden_states + 1, "cache"


class Blocks(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([TupleBlock(), TupleBlock()])

    def forward(self, hidden):
        for block in self.layers:
            hidden, cache = block(hidden_states=hidden)
        return hidden, cache


@pytest.mark.parametrize(("layer", "wanted"), [(0, 12.0), (1, 11.0), (2, 10.0)])
def test_what_a_hook_returns_takes_the_states_place_in_tuples_and_named_arguments(layer, wanted):
    with HookManager(Blocks()) as hooks:
        hooks.add_layer_hook(layer, lambda module, inputs, hidden: hidden * 0 + 10)
        hidden, cache = hooks.model(torch.zeros(1, 1, 2))
    assert hidden.unique().tolist() == [wanted]
    assert cache == "cache"


def test_a_block_that_returns_no_tensor_is_named():
    class Odd(nn.Module):
        def forward(self, hidden_states):
            return {"hidden": hidden_states}

    model = nn.Module()
    model.layers = nn.ModuleList([Odd()])
    with HookManager(model) as hooks:
        hooks.add_layer_hook(1, lambda module, inputs, hidden: None)
        with pytest.raises(TypeError, match=r"expected a tensor or a tuple that begins with one .*, got dict"):
            model.layers[0](hidden_states=torch.zeros(1))
