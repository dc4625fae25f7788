import torch
from extraction.capture.examples import Example, token_budget_batches
from extraction.capture.reading import read_batch

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


def _read(loaded, examples, layers, batch_tokens=4096, batch_size=64):
    """Means and kept tokens in the order of ``examples``."""
    means, tokens = {}, {}
    for batch in token_budget_batches(examples, batch_tokens, batch_size):
        states = read_batch(batch, loaded, layers)
        kept = iter(states.tokens)
        for example, mean in zip(batch, states.means, strict=True):
            means[example.row] = mean
            tokens[example.row] = [next(kept) for _ in example.kept_tokens]
    assert sorted(means) == list(range(len(examples)))
    return torch.stack([means[e.row] for e in examples]), torch.stack([t for e in examples for t in tokens[e.row]])


def test_responses_read_in_padded_batches_have_the_states_of_texts_read_alone(any_model):
    loaded, examples = _loaded(any_model), _examples()
    assert len({len(e.ids) for e in examples}) > 1  # so that some are padded
    for part in range(2):
        together = _read(loaded, examples, [0, 2, 4])[part]
        alone = torch.cat([read_batch([e], loaded, [0, 2, 4])[part] for e in examples])
        torch.testing.assert_close(together, alone, atol=2e-5, rtol=1e-4)


def test_means_are_of_the_responses_tokens_alone(any_model):
    loaded, examples = _loaded(any_model), _examples()
    means, tokens = _read(loaded, examples, [2])
    kept = iter(tokens[:, 0])
    with torch.inference_mode():
        for example, mean in zip(examples, means[:, 0], strict=True):
            ids = torch.tensor([example.ids])
            states = any_model(input_ids=ids, output_hidden_states=True).hidden_states[2][0, example.response_start :]
            torch.testing.assert_close(mean, states.mean(dim=0), atol=2e-5, rtol=1e-4)
            for position in example.kept_tokens:
                torch.testing.assert_close(next(kept), states[position], atol=2e-5, rtol=1e-4)


def test_small_budgets_change_the_batches_and_not_the_states():
    loaded, examples = _loaded(small_model("llama")), _examples()
    assert max(len(batch) for batch in token_budget_batches(examples, 30, 2)) == 2
    assert {len(batch) for batch in token_budget_batches(examples, 8, 2)} == {1}  # longer than the budget
    large = _read(loaded, examples, [4])[0]
    for tokens in (30, 8):
        small = _read(loaded, examples, [4], batch_tokens=tokens, batch_size=2)[0]
        torch.testing.assert_close(small, large, atol=2e-5, rtol=1e-4)
