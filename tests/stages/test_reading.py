import pytest
import torch
import transformers
from extraction.capture.examples import Example
from extraction.capture.reading import Reader, plan_batches, read_batch, sharing_pays
from extraction.capture.shared_prompts import can_share_prompts

from tests.conftest import small_model
from tests.tiny_tokenizer import tiny_tokenizer
from utils.models import LoadedModel


def _loaded(model):
    return LoadedModel(model, tiny_tokenizer(), "small", "small", None)


def _examples(n_prompts=3, to_each=4, prompt=6, response=5):
    """Responses of several lengths to prompts of several lengths; every second keeps two tokens."""
    generator = torch.Generator().manual_seed(2)
    examples = []
    for p in range(n_prompts):
        start = torch.randint(3, 300, (prompt + p,), generator=generator).tolist()
        for r in range(to_each):
            rest = torch.randint(3, 300, (2 + (r * 7 + p) % response,), generator=generator).tolist()
            kept = (0, len(rest) - 1) if r % 2 else ()
            examples.append(Example("pos", len(examples), start + rest, len(start), kept))
    return examples


def _read(loaded, examples, layers, share, **budget):
    """Means and kept tokens in the order of ``examples``."""
    reader = Reader(loaded, layers)
    means, tokens = {}, {}
    for batch in plan_batches(examples, budget.get("batch_tokens", 4096), budget.get("batch_size", 64), share):
        states = reader.read(batch)
        kept = iter(states.tokens)
        for example, mean in zip(batch.examples, states.means, strict=True):
            means[example.row] = mean
            tokens[example.row] = [next(kept) for _ in example.kept_tokens]
    assert sorted(means) == list(range(len(examples)))
    return torch.stack([means[e.row] for e in examples]), torch.stack([t for e in examples for t in tokens[e.row]])


def test_responses_read_after_shared_prompts_have_the_states_of_whole_texts(any_model):
    loaded, examples = _loaded(any_model), _examples()
    assert can_share_prompts(any_model, 15)
    for part in range(2):
        shared = _read(loaded, examples, [0, 2, 4], share=True)[part]
        alone = torch.cat([read_batch([e], loaded, [0, 2, 4])[part] for e in examples])
        torch.testing.assert_close(shared, alone, atol=2e-5, rtol=1e-4)


def test_small_budgets_change_the_batches_and_not_the_states():
    loaded, examples = _loaded(small_model("llama")), _examples()
    batches = plan_batches(examples, 30, 2, share=True)
    assert max(len(b.examples) for b in batches) == 2
    assert len({b.prompts for b in batches}) == 1
    assert len({b.prompts for b in plan_batches(examples, 8, 2, share=True)}) == 3
    large = _read(loaded, examples, [4], share=True)[0]
    for tokens in (30, 8):
        small = _read(loaded, examples, [4], share=True, batch_tokens=tokens, batch_size=2)[0]
        torch.testing.assert_close(small, large, atol=2e-5, rtol=1e-4)


def test_every_prompt_goes_through_the_model_once():
    model = small_model("llama")
    read = []
    model.model.embed_tokens.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].numel()))
    _read(_loaded(model), _examples(prompt=50, response=2), [4], share=True, batch_size=3)
    assert read[0] == 3 * 52
    assert sum(read[1:]) < 100


def test_a_text_beyond_a_sliding_window_is_read_whole():
    model = small_model("gemma2")  # a window of 16
    assert can_share_prompts(model, 15)
    assert not can_share_prompts(model, 16)
    assert not sharing_pays(_examples(prompt=12), _loaded(model), [4])


def test_a_recurrent_model_is_read_whole():
    config = transformers.MambaConfig(vocab_size=300, hidden_size=32, num_hidden_layers=2, state_size=4)
    assert not can_share_prompts(transformers.MambaForCausalLM(config), 10)


def test_sharing_needs_prompts_that_several_responses_have():
    loaded = _loaded(small_model("llama"))
    assert sharing_pays(_examples(), loaded, [4])
    assert not sharing_pays(_examples(n_prompts=6, to_each=1), loaded, [4])
    assert not sharing_pays(_examples(prompt=1, response=90, n_prompts=1, to_each=2), loaded, [4])


@pytest.mark.parametrize("broken", ["position_ids", "past_key_values"])
def test_a_model_that_does_not_heed_what_sharing_needs_is_read_whole(broken):
    model = small_model("gpt2")  # learned positions: rotary ones do not mind a shift of the whole row
    original = model.forward

    def forward(input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, use_cache=None):
        heeded = {"position_ids": position_ids, "past_key_values": past_key_values}
        heeded[broken] = None
        mask = attention_mask[:, -input_ids.shape[1] :] if broken == "past_key_values" else attention_mask
        return original(input_ids=input_ids, attention_mask=mask, use_cache=use_cache, **heeded)

    model.forward = forward
    assert can_share_prompts(model, 15)
    assert not sharing_pays(_examples(), _loaded(model), [4])
