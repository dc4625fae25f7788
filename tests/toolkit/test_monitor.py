import copy
import weakref

import pytest
import torch
import transformers
from torch import nn

from tests.conftest import small_model
from traitlens import ActivationCapture, HookManager, TraitMonitor, projection
from traitlens._monitor.projector import Block
from traitlens._monitor.scores import Scores

LAYERS = (0, 2, 4)


@pytest.fixture
def model():
    return small_model("llama")


def vectors(hidden=32):
    generator = torch.Generator().manual_seed(1)
    return {"several": [(torch.randn(hidden, generator=generator), layer) for layer in LAYERS],
            "one": (torch.randn(hidden, generator=generator), 2)}  # fmt: skip


def prompt(length=6, seed=0):
    return torch.randint(3, 300, (1, length), generator=torch.Generator().manual_seed(seed))


def teacher_forced(model, ids):
    """Scores of every token of one text by capturing whole states and projecting: another road to the same numbers."""
    capture = ActivationCapture()
    with HookManager(model) as hooks, torch.no_grad():
        for layer in LAYERS:
            hooks.add_layer_hook(layer, capture.make_hook(str(layer)))
        model(input_ids=ids)
    states = {layer: capture.get(str(layer))[0] for layer in LAYERS}
    several = torch.stack([projection(states[layer], v) for v, layer in vectors()["several"]])
    return {"several": several, "one": projection(states[2], vectors()["one"][0])}


def assert_close(found, wanted):
    for trait, scores in wanted.items():
        assert found[trait].shape == scores.shape
        assert found[trait].dtype == torch.float32
        if scores.numel():
            assert (found[trait] - scores).abs().max() <= 1e-3 * spread(scores), trait


def spread(scores):
    return max(float(scores.std()) if scores.numel() > 1 else 0.0, 1e-3)


class EndsAt(transformers.LogitsProcessor):
    """Makes row i sample the end token as its n-th new token, and no row before."""

    def __init__(self, at, end_id=2):
        self.at, self.end_id, self.step = at, end_id, 0

    def __call__(self, input_ids, scores):
        scores[:, self.end_id] = -1e9
        for row, at in enumerate(self.at):
            if at == self.step:
                scores[row, self.end_id] = 1e9
        self.step += 1
        return scores


def generate(model, ids, n=8, ends=(None,), **arguments):
    return model.generate(ids, max_new_tokens=n, do_sample=False, logits_processor=[EndsAt(ends)], **arguments)


def test_scores_equal_a_second_teacher_forced_pass_in_every_architecture(any_model):
    with TraitMonitor(any_model, vectors()) as monitor:
        output = generate(any_model, prompt())
    wanted = teacher_forced(any_model, output)
    assert_close(monitor.scores(), {t: s[..., 6:] for t, s in wanted.items()})
    assert_close(monitor.prompt_scores(), {t: s[..., :6] for t, s in wanted.items()})
    assert monitor.token_ids() == output[0, 6:].tolist()
    assert monitor.scores()["several"].std() > 0


@pytest.mark.parametrize(
    "arguments",
    [
        {"use_cache": False},
        {"cache_implementation": "static"},
        {"return_dict_in_generate": True},
        {"prefill_chunk_size": 2},
        {"n": 1},
        {"n": 1, "use_cache": False},
        {"repetition_penalty": 1.3},
        {"attention_mask": torch.ones(1, 6, dtype=torch.long)},
    ],
    ids="-".join,
)
def test_the_way_of_generating_does_not_change_the_scores(model, arguments):
    with TraitMonitor(model, vectors()) as monitor:
        output = generate(model, prompt(), **arguments)
    sequences = getattr(output, "sequences", output)
    assert_close(monitor.scores(), {t: s[..., 6:] for t, s in teacher_forced(model, sequences).items()})


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])
def test_rows_of_a_padded_batch_score_as_they_do_alone(architecture):
    model = small_model(architecture)
    prompts = [prompt(9, seed=1), prompt(4, seed=2), prompt(6, seed=3)]
    ids, mask = torch.zeros(3, 9, dtype=torch.long), torch.zeros(3, 9, dtype=torch.long)
    for row, one in enumerate(prompts):
        ids[row, 9 - one.shape[1] :], mask[row, 9 - one.shape[1] :] = one, 1
    with TraitMonitor(model, vectors()) as monitor:
        output = generate(model, ids, ends=(2, None, 5), attention_mask=mask)
    assert [len(monitor.token_ids(row)) for row in range(3)] == [2, 8, 5]
    for row, one in enumerate(prompts):
        own = output[row : row + 1, 9 : 9 + len(monitor.token_ids(row))]
        wanted = teacher_forced(model, torch.cat([one, own], dim=1))
        assert_close(monitor.scores(row), {t: s[..., one.shape[1] :] for t, s in wanted.items()})
        assert_close(monitor.prompt_scores(row), {t: s[..., : one.shape[1]] for t, s in wanted.items()})


def test_padding_that_generate_finds_itself_is_no_part_of_the_prompt(model):
    ids = torch.cat([torch.zeros(1, 3, dtype=torch.long), prompt()], dim=1)
    with TraitMonitor(model, vectors()) as monitor:
        output = generate(model, ids)
    wanted = teacher_forced(model, output[:, 3:])
    assert_close(monitor.prompt_scores(), {t: s[..., :6] for t, s in wanted.items()})
    assert_close(monitor.scores(), {t: s[..., 6:] for t, s in wanted.items()})


def test_the_end_token_has_no_score_and_costs_no_step(model):
    calls = []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    with TraitMonitor(model, vectors()) as monitor:
        output = generate(model, prompt(), ends=(3,))
    assert output[0, -1] == 2
    assert monitor.token_ids() == output[0, 6:-1].tolist()
    assert len(calls) == 4


def test_end_ids_given_by_hand_end_a_text_too(model):
    output = generate(model, prompt())
    third = output[0, 8].item()
    with TraitMonitor(model, vectors(), end_ids=[third]) as monitor:
        generate(model, prompt())
    assert third not in monitor.token_ids()
    assert len(monitor.token_ids()) <= 2


def test_a_row_stopped_by_the_callers_criterion_has_no_padding_in_its_scores(model):
    def stop(input_ids, scores, **_):
        return torch.tensor([input_ids.shape[1] >= 9, False])

    ids = torch.cat([prompt(seed=1), prompt(seed=2)])
    with TraitMonitor(model, vectors()) as monitor:
        generate(model, ids, ends=(None, None), stopping_criteria=[stop])
    assert [monitor.scores(row)["one"].shape[0] for row in (0, 1)] == [3, 8]


def test_the_monitor_changes_neither_the_text_nor_the_cache(model):
    torch.manual_seed(3)
    plain = model.generate(prompt(), max_new_tokens=8, do_sample=True, return_dict_in_generate=True)
    torch.manual_seed(3)
    with TraitMonitor(model, vectors()):
        watched = model.generate(prompt(), max_new_tokens=8, do_sample=True, return_dict_in_generate=True)
    assert torch.equal(plain.sequences, watched.sequences)
    assert watched.past_key_values.get_seq_length() == plain.past_key_values.get_seq_length()


def test_a_conversation_goes_on_from_the_callers_cache(model):
    with TraitMonitor(model, vectors()) as monitor:
        first = generate(model, prompt(), return_dict_in_generate=True)
        longer = torch.cat([first.sequences, prompt(5, seed=9)], dim=1)
        known = first.past_key_values.get_seq_length()
        second = generate(model, longer, past_key_values=first.past_key_values)
    wanted = teacher_forced(model, second)
    assert_close(monitor.scores(), {t: s[..., longer.shape[1] :] for t, s in wanted.items()})
    assert_close(monitor.prompt_scores(), {t: s[..., known : longer.shape[1]] for t, s in wanted.items()})


def test_several_samples_of_a_padded_prompt_keep_their_rows(model):
    ids, mask = torch.cat([torch.zeros(1, 2, dtype=torch.long), prompt()], dim=1), torch.ones(1, 8, dtype=torch.long)
    mask[0, :2] = 0
    torch.manual_seed(0)
    with TraitMonitor(model, vectors()) as monitor:
        output = model.generate(
            ids, attention_mask=mask, max_new_tokens=5, do_sample=True, num_return_sequences=3, eos_token_id=None,
            logits_processor=[EndsAt([None] * 3)],
        )  # fmt: skip
    assert len(monitor) == 3
    assert len({tuple(row) for row in output.tolist()}) > 1
    for row in range(3):
        wanted = teacher_forced(model, output[row : row + 1, 2:])
        assert_close(monitor.scores(row), {t: s[..., 6:] for t, s in wanted.items()})


def test_a_prompt_given_as_embeddings_is_scored(model):
    embeddings = model.get_input_embeddings()(prompt()).detach()
    with TraitMonitor(model, vectors()) as monitor:
        output = generate(model, None, inputs_embeds=embeddings)
    wanted = teacher_forced(model, torch.cat([prompt(), output], dim=1))
    assert_close(monitor.scores(), {t: s[..., 6:] for t, s in wanted.items()})
    assert_close(monitor.prompt_scores(), {t: s[..., :6] for t, s in wanted.items()})


def test_half_precision_states_are_projected_in_float32(model):
    model = model.to(torch.bfloat16)
    with TraitMonitor(model, vectors()) as monitor:
        output = generate(model, prompt())
    wanted = teacher_forced(model, output)
    found = monitor.scores()["one"]
    assert found.dtype == torch.float32
    assert (found - wanted["one"][6:]).abs().max() < 0.1 * wanted["one"].std()


def test_a_plain_pass_scores_the_real_tokens_of_every_row(model):
    ids, mask = torch.cat([prompt(seed=1), prompt(seed=2)]), torch.ones(2, 6, dtype=torch.long)
    mask[1, 4:] = 0
    with TraitMonitor(model, vectors()) as monitor, torch.no_grad():
        model(input_ids=ids, attention_mask=mask)
    assert_close(monitor.scores(0), teacher_forced(model, ids[:1]))
    assert_close(monitor.scores(1), teacher_forced(model, ids[1:, :4]))
    assert monitor.token_ids(1) == ids[1, :4].tolist()
    assert monitor.prompt_scores(0)["one"].shape == (0,)


def test_a_hand_written_loop_over_a_cache_is_one_text(model):
    ids = prompt(9)
    with TraitMonitor(model, vectors()) as monitor, torch.no_grad():
        model(input_ids=prompt(5, seed=8))  # an earlier text
        cache = model(input_ids=ids[:, :4], use_cache=True).past_key_values
        for i in range(4, 9):
            cache = model(input_ids=ids[:, i : i + 1], past_key_values=cache, use_cache=True).past_key_values
    assert_close(monitor.scores(), teacher_forced(model, ids))
    assert monitor.token_ids() == ids[0].tolist()


def test_blocks_that_write_into_their_input_do_not_change_what_was_read_before(model):
    def grow(module, args):
        args[0].mul_(1.5)

    model.model.layers[2].register_forward_pre_hook(grow)
    with TraitMonitor(model, vectors()) as monitor, torch.no_grad():
        output = generate(model, prompt())
        stepwise = monitor.scores()
        model(input_ids=output)
        at_once = monitor.scores()
    assert_close(stepwise, {t: s[..., 6:] for t, s in at_once.items()})


def test_no_graph_is_kept_when_gradients_are_on(model):
    with TraitMonitor(model, vectors()) as monitor:
        model(input_ids=prompt())
    assert not monitor.scores()["one"].requires_grad


def test_reading_existing_texts_equals_a_plain_pass(model):
    prompts, responses = [[5, 6, 7], [8, 9]], [[10, 11], [12, 13, 14, 15]]
    with TraitMonitor(model, vectors()) as monitor:
        monitor.read(prompts, responses)
    for row in (0, 1):
        wanted = teacher_forced(model, torch.tensor([prompts[row] + responses[row]]))
        n = len(prompts[row])
        assert_close(monitor.scores(row), {t: s[..., n:] for t, s in wanted.items()})
        assert_close(monitor.prompt_scores(row), {t: s[..., :n] for t, s in wanted.items()})
        assert monitor.token_ids(row) == responses[row]


def test_a_part_of_the_model_called_on_its_own_leaves_no_score(model):
    with TraitMonitor(model, vectors()) as monitor, torch.no_grad():
        output = generate(model, prompt())
        before = monitor.scores()
        model.model(input_ids=output)
    assert_close(monitor.scores(), before)


def test_vectors_of_two_sizes_at_one_layer_are_refused(model):
    with pytest.raises(ValueError, match="vectors at layer 2 have hidden sizes 32 and 16"):
        TraitMonitor(model, {"one": (torch.ones(32), 2), "other": (torch.ones(16), 2)})


def test_a_plain_pass_after_a_reading_runs_through_and_is_a_text_of_its_own(model):
    wanted = teacher_forced(model, prompt())
    with TraitMonitor(model, vectors()) as monitor, torch.no_grad():
        monitor.read([[5, 6, 7]], [[10, 11]])
        assert model(input_ids=prompt()).logits is not None
    assert_close(monitor.scores(), wanted)


def test_reading_computes_no_block_after_the_deepest_layer(model):
    ran = []
    model.model.layers[3].register_forward_hook(lambda *_: ran.append(1))
    with TraitMonitor(model, {"one": vectors()["one"]}) as monitor:
        monitor.read([[5, 6]], [[7]])
    assert monitor.scores()["one"].shape == (1,)
    assert not ran


def test_tokens_stream_with_the_scores_that_are_kept(model):
    streamed = {0: [], 1: []}

    def on_token(row, token_id, scores):
        streamed[row].append((token_id, scores["one"], scores["several"]))

    ids = torch.cat([prompt(seed=1), prompt(seed=2)])
    with TraitMonitor(model, vectors(), on_token=on_token) as monitor:
        generate(model, ids, ends=(3, None))
    for row in (0, 1):
        tokens, one, several = zip(*streamed[row], strict=True)
        assert list(tokens) == monitor.token_ids(row)
        assert torch.equal(torch.tensor(one), monitor.scores(row)["one"])
        assert torch.equal(torch.tensor(several).T, monitor.scores(row)["several"])


def test_only_scores_are_kept_four_bytes_for_each_vector_and_token(model):
    with TraitMonitor(model, vectors()) as monitor:
        generate(model, prompt(), n=200)
    assert monitor.memory_usage() == 4 * 4 * (6 + 200)


def test_many_single_token_pieces_are_joined_on_the_way():
    scores, total, pieces = Scores(), 700, []
    for i in range(total):
        pieces.append(torch.full((1, 1, 1), float(i)))
        scores.add([Block(((2, 1),), pieces[-1])])
    alive = [weakref.ref(piece) for piece in pieces]
    del pieces[:]
    assert sum(piece() is not None for piece in alive) < 300
    assert scores.on_cpu()[2].flatten().tolist() == list(range(total))


def test_a_second_run_replaces_the_first(model):
    with TraitMonitor(model, vectors()) as monitor:
        generate(model, prompt(seed=1), n=3)
        generate(model, prompt(seed=2), n=5)
    assert monitor.scores()["one"].shape == (5,)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"num_beams": 2}, "beam search"),
        ({"generation_config": transformers.GenerationConfig(num_beams=3)}, "beam search"),
        ({"prompt_lookup_num_tokens": 2}, "assisted decoding"),
        ({"assistant_model": nn.Linear(1, 1)}, "assisted decoding"),
        ({"penalty_alpha": 0.6, "top_k": 4}, "contrastive search"),
        ({"dola_layers": "low"}, "not generate's own"),
        ({"custom_generate": lambda *_: None}, "not generate's own"),
        ({"guidance_scale": 1.5}, "second prompt"),
        ({"cache_implementation": "paged"}, "continuous batching"),
    ],
)
def test_what_cannot_be_monitored_is_refused_with_a_reason(model, arguments, reason):
    with TraitMonitor(model, vectors()) as monitor, pytest.raises(ValueError, match=reason):
        model.generate(prompt(), max_new_tokens=4, **arguments)
    with pytest.raises(RuntimeError, match="nothing was monitored"):
        monitor.scores()


def test_a_beam_setting_of_the_model_itself_is_refused(model):
    model.generation_config.num_beams = 2
    with TraitMonitor(model, vectors()), pytest.raises(ValueError, match="num_beams=2"):
        model.generate(prompt(), max_new_tokens=4)


def test_continuous_batching_is_refused(model):
    with TraitMonitor(model, vectors()), pytest.raises(ValueError, match="several texts into one row"):
        model.generate_batch([[5, 6]])


def test_an_encoder_decoder_model_is_refused():
    config = transformers.BartConfig(
        vocab_size=50, d_model=32, encoder_layers=2, decoder_layers=2, encoder_ffn_dim=32, decoder_ffn_dim=32,
        encoder_attention_heads=2, decoder_attention_heads=2,
    )  # fmt: skip
    model = transformers.BartForConditionalGeneration(config).eval()
    with TraitMonitor(model, {"one": (torch.ones(32), 1)}), pytest.raises(ValueError, match="encoder-decoder"):
        model.generate(torch.tensor([[5, 6]]), max_new_tokens=2)


def test_a_loop_that_feeds_something_else_is_noticed(model):
    class Twice(transformers.LogitsProcessor):
        def __call__(self, input_ids, scores):
            model(input_ids=input_ids[:, -1:])
            return scores

    with TraitMonitor(model, vectors()), pytest.raises(RuntimeError, match="does not feed it one token per step"):
        model.generate(prompt(), max_new_tokens=4, logits_processor=[Twice()])


def test_hooks_and_generate_are_as_before_after_an_exception(model):
    before = {name: len(m._forward_hooks) + len(m._forward_pre_hooks) for name, m in model.named_modules()}

    def fails(row, token_id, scores):
        raise KeyError("stop")

    with pytest.raises(KeyError), TraitMonitor(model, vectors(), on_token=fails) as monitor:
        generate(model, prompt())
    after = {name: len(m._forward_hooks) + len(m._forward_pre_hooks) for name, m in model.named_modules()}
    assert after == before
    assert "generate" not in vars(model)
    with pytest.raises(RuntimeError, match="nothing was monitored"):
        monitor.scores()


def test_after_a_failure_the_next_pass_is_a_text_of_its_own(model):
    def fail(*_):
        raise KeyError("stop")

    wanted = teacher_forced(model, prompt())
    with TraitMonitor(model, vectors()) as monitor, torch.no_grad():
        handle = model.model.layers[2].register_forward_hook(fail)
        for work in (lambda: generate(model, prompt()), lambda: monitor.read([[5, 6]], [[7]])):
            with pytest.raises(KeyError):
                work()
            with pytest.raises(RuntimeError, match="nothing was monitored"):
                monitor.scores()
            assert len(monitor) == 0
        handle.remove()
        model(input_ids=prompt())
    assert_close(monitor.scores(), wanted)


def test_what_was_read_before_stays_when_the_text_goes_on(model):
    with TraitMonitor(model, vectors()) as monitor, torch.no_grad():
        cache = model(input_ids=prompt(), use_cache=True).past_key_values
        before, copied = monitor.scores(), {trait: s.clone() for trait, s in monitor.scores().items()}
        monitor.scores()["one"].zero_()
        model(input_ids=prompt(1), past_key_values=cache)
    assert all(torch.equal(before[trait], copied[trait]) for trait in copied)
    assert torch.equal(monitor.scores()["one"][:6], copied["one"])
    assert monitor.scores()["one"].shape == (7,)


def test_nested_monitors_see_the_same(model):
    with TraitMonitor(model, vectors()) as outer:
        with TraitMonitor(model, vectors()) as inner:
            generate(model, prompt())
        assert torch.equal(inner.scores()["one"], outer.scores()["one"])
        generate(model, prompt(seed=5), n=3)
    assert outer.scores()["one"].shape == (3,)
    assert inner.scores()["one"].shape == (8,)
    assert "generate" not in vars(model)


def test_a_model_with_a_generate_of_its_own_is_monitored():
    class Toy(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.layers, self.head = nn.Embedding(20, 8), nn.ModuleList([nn.Linear(8, 8)]), nn.Linear(8, 20)

        def forward(self, input_ids):
            return self.head(self.layers[0](self.embed(input_ids)))

        def generate(self, ids, steps):
            for _ in range(steps):
                ids = torch.cat([ids, self(ids)[:, -1:].argmax(dim=-1)], dim=1)
            return ids

    torch.manual_seed(0)
    model, vector = Toy(), torch.randn(8)
    with TraitMonitor(model, {"trait": (vector, 1)}) as monitor:
        output = model.generate(torch.tensor([[1, 2, 3]]), 4)
    wanted = projection(model.layers[0](model.embed(output)), vector)[0].detach()
    assert torch.allclose(monitor.scores()["trait"], wanted[3:], atol=1e-5)
    assert torch.allclose(monitor.prompt_scores()["trait"], wanted[:3], atol=1e-5)


def test_a_generate_that_takes_whatever_it_is_given_is_monitored(model):
    original = type(model).generate
    model.generate = lambda *args, **kwargs: original(model, *args, **kwargs)
    with TraitMonitor(model, vectors()) as monitor:
        output = model.generate(prompt(), max_new_tokens=4, do_sample=False)
    assert_close(monitor.scores(), {k: v[..., 6:] for k, v in teacher_forced(model, output).items()})


def test_a_generate_that_returns_no_token_ids_is_refused(model):
    model.generate = lambda *args, **kwargs: ["a text"]
    with TraitMonitor(model, vectors()), pytest.raises(TypeError, match="expected token ids from generate, got list"):
        model.generate(prompt())


def test_token_types_go_on_to_the_last_token():
    model, types = small_model("gpt2"), torch.full((1, 6), 7)
    with TraitMonitor(model, vectors()) as monitor:
        output = model.generate(prompt(), token_type_ids=types, max_new_tokens=4, do_sample=False)
    with TraitMonitor(model, vectors()) as plain, torch.no_grad():
        model(input_ids=output, token_type_ids=torch.full(output.shape, 7))
    assert_close(monitor.scores(), {k: v[..., 6:] for k, v in plain.scores().items()})


def test_mistakes_are_named(model):
    good = vectors()["one"][0]
    with pytest.raises(ValueError, match="wanted finite"):
        TraitMonitor(model, {"trait": (good * float("nan"), 2)})
    with pytest.raises(ValueError, match="zero vector"):
        TraitMonitor(model, {"trait": (good * 0, 2)})
    with pytest.raises(ValueError, match="no vectors"):
        TraitMonitor(model, {})
    with pytest.raises(ValueError, match="layer 9 is outside"), TraitMonitor(model, {"trait": (good, 9)}):
        pass
    with TraitMonitor(model, {"trait": (good[:5], 2)}), pytest.raises(ValueError, match=r"hidden size 5 but .* 32"):
        generate(model, prompt())
    with TraitMonitor(model, {"trait": (good, 2)}) as monitor:
        generate(model, torch.cat([prompt(), prompt()]), ends=(None, None))
        with pytest.raises(ValueError, match="2 rows: say which"):
            monitor.scores()
        with pytest.raises(RuntimeError, match="active already"):
            monitor.__enter__()
    with pytest.raises(RuntimeError, match="with block"):
        monitor.read([[1]], [[2]])


def test_a_copy_of_the_vectors_is_normalised_not_the_callers(model):
    given = vectors()
    before = copy.deepcopy(given)
    with TraitMonitor(model, given):
        generate(model, prompt())
    assert torch.equal(given["one"][0], before["one"][0])
