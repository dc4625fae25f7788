import logging
from types import SimpleNamespace

import pytest
import torch
import transformers

from utils.models.generation import Sampling, generate_batch, halving_on_out_of_memory

_SHARED = {"vocab_size": 300, "hidden_size": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_ATTENTION = {**_SHARED, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
CONFIGS = {
    "Llama": {**_ATTENTION, "num_hidden_layers": 2},
    "Mamba2": {**_SHARED, "num_hidden_layers": 2, "num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1},
    "Lfm2": {**_ATTENTION, "num_hidden_layers": 3, "layer_types": ["conv", "full_attention", "conv"]},
    "Jamba": {
        **_ATTENTION, "num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2,
        "num_experts_per_tok": 1, "mamba_d_state": 8,
    },
}  # fmt: skip


@pytest.mark.parametrize("architecture", CONFIGS)
def test_rows_go_on_as_if_alone_after_half_of_the_batch_has_ended(architecture, monkeypatch):
    torch.manual_seed(0)
    config = getattr(transformers, f"{architecture}Config")(**CONFIGS[architecture])
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for weights in model.parameters():
        if weights.dim() > 1:
            weights.data *= 8  # else a random model repeats one token, whatever it has read
    prompts = [torch.randint(3, 300, (length,)).tolist() for length in (5, 9, 7, 3, 8, 6, 4, 9, 5, 7)]

    def generate(prompts, end_ids):
        tokenizer = SimpleNamespace(pad_token_id=0)
        loaded = SimpleNamespace(model=model, tokenizer=tokenizer, device=torch.device("cpu"), end_ids=end_ids)
        return generate_batch(loaded, prompts, Sampling(24, temperature=0.0), seed=0)

    end_ids = frozenset(row.ids[3] for row in generate(prompts, frozenset({2}))[:6])
    alone = [generate([prompt], end_ids)[0] for prompt in prompts]
    sizes, whole = [], model.generate
    monkeypatch.setattr(model, "generate", lambda **given: sizes.append(len(given["input_ids"])) or whole(**given))
    assert generate(prompts, end_ids) == alone
    assert len(sizes) == 2
    assert 0 < sizes[1] <= 5


def test_a_batch_that_does_not_fit_is_halved_until_it_does_and_keeps_its_order(caplog):
    tried = []

    def work(items):
        tried.append(len(items))
        if len(items) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")
        return [item * 10 for item in items]

    caplog.set_level(logging.INFO)
    assert halving_on_out_of_memory(work, [1, 2, 3, 4, 5]) == [10, 20, 30, 40, 50]
    assert tried == [5, 2, 3, 1, 2]
    assert (
        caplog.messages[0]
        == "out of memory with a batch of 5, going on with 2: CUDA out of memory. Tried to allocate 2 GiB"
    )


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory.")])
def test_a_single_item_that_does_not_fit_is_an_error(error):
    def work(items):
        raise error

    with pytest.raises(type(error)):
        halving_on_out_of_memory(work, [1])


def test_another_error_is_not_taken_for_a_lack_of_memory():
    tried = []

    def work(items):
        tried.append(items)
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        halving_on_out_of_memory(work, [1, 2])
    assert tried == [[1, 2]]
