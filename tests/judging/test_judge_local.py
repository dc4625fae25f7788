"""The tree of answers against each answer read by itself, on real weights and on small random models."""

import math

import pytest
import torch

from tests.conftest import small_model
from tests.tiny_tokenizer import tiny_tokenizer
from utils.errors import UserError
from utils.judges.local import LocalJudge
from utils.judges.score_tree import score_probabilities
from utils.judges.tree_reading import SharedBeginning, read_one_by_one
from utils.prompts import encode_prompt, format_prompt

PROMPTS = ["Rate 0-100: no.", "Rate 0-100: thank you, my friend!", "Rate 0-100 whether this is polite: go away."]


def brute_force(model, tokenizer, prompt, answers, *, lead="Score:", goes_on=str.isdigit):
    """(mass, expected value): every answer string read in full after the whole prompt, sharing nothing.

    P(answer) = product of its tokens' probabilities, times 1 - P(the next token begins as the answer could go on).
    """
    beginning = encode_prompt(tokenizer, format_prompt(tokenizer, prompt))
    beginning = beginning + tokenizer.encode(lead, add_special_tokens=False)
    longer = [i for i in range(len(tokenizer)) if goes_on(tokenizer.convert_ids_to_tokens(i)[:1])]
    by_length = {}
    for text, value in answers.items():
        ids = tokenizer.encode(f"{lead} {text}", add_special_tokens=False)[
            len(tokenizer.encode(lead, add_special_tokens=False)) :
        ]
        assert tokenizer.decode(ids) == f" {text}"
        by_length.setdefault(len(ids), []).append((ids, value))
    mass = weighted = 0.0
    for length, group in by_length.items():
        with torch.no_grad():
            logits = model(torch.tensor([beginning + ids for ids, _ in group]), logits_to_keep=length + 1).logits
        for (ids, value), probabilities in zip(group, logits.double().softmax(-1), strict=True):
            p = math.prod(probabilities[k, token].item() for k, token in enumerate(ids))
            p *= 1 - probabilities[length, longer].sum().item()
            mass += p
            weighted += p * value
    return mass, weighted / mass


def probabilities(judge, prompt):
    """The probability of every answer on the scale, not renormalised."""
    log_probs = read_one_by_one(judge._model, judge._encode(prompt), judge._tree)
    values = {}
    for (_, value), p in zip(judge._tree.ends, score_probabilities(judge._tree, log_probs).tolist(), strict=True):
        values[value] = values.get(value, 0.0) + p
    return values


@pytest.fixture(scope="module")
def float32(embedded):
    """The first layers of the embedded model, to be quick, with its own tokenizer."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(embedded.path, dtype=torch.float32, num_hidden_layers=6)
    return model.eval(), embedded.tokenizer


def test_the_expected_score_is_that_of_all_101_answers_read_one_by_one(float32, monkeypatch):
    model, tokenizer = float32
    monkeypatch.setattr("utils.judges.local.MIN_MASS", 0.0)
    verdicts = dict(LocalJudge(model, tokenizer, "m").judgements(PROMPTS))
    mass, expected = brute_force(model, tokenizer, PROMPTS[0], {str(i): i for i in range(101)})
    assert 0 < mass <= 1
    assert verdicts[0].score == pytest.approx(expected, abs=1e-3)
    assert verdicts[0].method == "local_logprobs"
    assert len({round(v.score, 3) for v in verdicts.values()}) == 3


def test_so_it_is_on_the_scale_to_nine_and_for_yes_and_no(float32, monkeypatch):
    model, tokenizer = float32
    monkeypatch.setattr("utils.judges.local.MIN_MASS", 0.0)
    [(_, nine)] = LocalJudge(model, tokenizer, "m", "0_10").judgements(PROMPTS[2:])
    _, expected = brute_force(model, tokenizer, PROMPTS[2], {str(i): i for i in range(10)})
    assert nine.score == pytest.approx(expected, abs=1e-3)
    question = "Is water wet? Reply with YES or NO."
    values = probabilities(LocalJudge(model, tokenizer, "m", "binary"), question)
    begins_word = lambda text: text.isascii() and text.isalnum()  # noqa: E731
    words = {"YES": 1, "Yes": 1, "yes": 1, "NO": 0, "No": 0, "no": 0}
    mass, expected = brute_force(model, tokenizer, question, words, lead="Answer:", goes_on=begins_word)
    assert sum(values.values()) == pytest.approx(mass, rel=1e-3)
    assert values[1.0] / mass == pytest.approx(expected, abs=1e-3)


class Numbers:
    """A tokenizer of single characters, or of whole numbers, over a vocabulary of 300."""

    chat_template = None
    bos_token_id = None

    def __init__(self, whole):
        pieces = [chr(i) for i in range(32, 127)] + ([str(i) for i in range(10, 101)] if whole else [])
        pieces += ["é"]
        self.vocabulary = {piece: i + 3 for i, piece in enumerate(pieces)}
        self.whole = whole

    def __len__(self):
        return 3 + len(self.vocabulary)

    def get_vocab(self):
        return self.vocabulary

    def convert_ids_to_tokens(self, i):
        return next((piece for piece, n in self.vocabulary.items() if n == i), "<unused>")

    def encode(self, text, add_special_tokens=True):
        import re

        pieces = re.findall(r"100|[1-9][0-9]|.", text, re.DOTALL) if self.whole else list(text)
        return [self.vocabulary.get(piece, 3) for piece in pieces]

    def decode(self, ids):
        return "".join(self.convert_ids_to_tokens(i) for i in ids)

    def __call__(self, text, add_special_tokens=True):
        return {"input_ids": self.encode(text)}


def test_eight_does_not_include_eighty_seven():
    model, tokenizer = small_model("llama"), Numbers(whole=False)
    torch.nn.init.normal_(model.lm_head.weight, std=1.0)  # far from uniform
    judge = LocalJudge(model, tokenizer, "m")
    values = probabilities(judge, "Rate it.")
    before = torch.tensor([judge._encode("Rate it.") + tokenizer.encode(" 8")])
    with torch.no_grad():
        eight = model(before[:, :-2]).logits[0, -1].softmax(-1)[before[0, -2]]
        eight = eight * model(before[:, :-1]).logits[0, -1].softmax(-1)[before[0, -1]]
        digits = model(before).logits[0, -1].softmax(-1)[tokenizer.encode("0123456789")].sum()
    assert len(values) == 101
    assert values[8.0] == pytest.approx(float(eight * (1 - digits)), rel=1e-3)
    assert values[8.0] < float(eight) * 0.999


ANSWERS = {str(i): float(i) for i in range(101)}


def expected_of(values):
    return sum(value * p for value, p in values.items()) / sum(values.values())


@pytest.mark.parametrize("whole", [False, True])
def test_it_holds_for_a_tokenizer_that_splits_numbers_and_for_one_that_does_not(whole):
    model, tokenizer = small_model("llama"), Numbers(whole)
    values = probabilities(LocalJudge(model, tokenizer, "m"), "Rate it.")
    mass, expected = brute_force(model, tokenizer, "Rate it.", ANSWERS)
    assert sum(values.values()) == pytest.approx(mass, rel=1e-3)
    assert expected_of(values) == pytest.approx(expected, abs=1e-3)


def test_reading_the_tree_at_once_is_reading_every_answer_alone(any_model, caplog):
    judge = LocalJudge(any_model, Numbers(whole=False), "m")
    tree = judge._tree
    prompts = [judge._encode(text) for text in ("Rate this.", "Rate this one, please, all of it.", "Rate.")]
    for shared in (0, 7):  # longer than the sliding window of some of these models
        beginning = SharedBeginning(any_model, prompts[0][:shared])
        for prompt, found in zip(prompts, beginning.read([p[shared:] for p in prompts], tree), strict=True):
            torch.testing.assert_close(found, read_one_by_one(any_model, prompt, tree), atol=2e-4, rtol=1e-3)
    list(judge.judgements(["Rate this."]))
    assert "one answer at a time" not in caplog.text


def test_a_model_that_cannot_read_a_tree_reads_one_answer_at_a_time(caplog, monkeypatch):
    model = small_model("llama")
    reads = model.forward

    def forward(input_ids, attention_mask=None, **rest):  # deaf to masks, as a recurrent model is
        return reads(input_ids=input_ids, **{**rest, "past_key_values": None, "position_ids": None})

    monkeypatch.setattr(model, "forward", forward)
    monkeypatch.setattr("utils.judges.local.MIN_MASS", 0.0)
    [(_, verdict)] = LocalJudge(model, Numbers(whole=False), "m").judgements(["Rate it."])
    assert "one answer at a time" in caplog.text
    _, expected = brute_force(small_model("llama"), Numbers(whole=False), "Rate it.", ANSWERS)
    assert verdict.score == pytest.approx(expected, abs=1e-3)


def test_a_model_that_would_not_answer_with_a_number_gives_no_score():
    [(_, verdict)] = LocalJudge(small_model("llama"), Numbers(whole=False), "m").judgements(["Rate it."])
    assert verdict.score is None
    assert "of the probability on valid answers" in verdict.reason


def test_a_prompt_longer_than_the_model_reads_is_unscored_and_the_others_are_not(monkeypatch):
    monkeypatch.setattr("utils.judges.local.MIN_MASS", 0.0)
    judge = LocalJudge(small_model("llama"), Numbers(whole=False), "m")
    verdicts = dict(judge.judgements(["Rate it.", "x" * 300, "Rate."]))
    assert [verdicts[i].score is None for i in range(3)] == [False, True, False]
    assert "the judge reads" in verdicts[1].reason


def test_a_score_does_not_depend_on_what_else_is_judged(monkeypatch):
    monkeypatch.setattr("utils.judges.local.MIN_MASS", 0.0)
    judge = LocalJudge(small_model("gemma2"), Numbers(whole=False), "m")
    together = dict(judge.judgements(["Rate it now.", "Rate that thing over there.", "Bad?"]))
    alone = dict(judge.judgements(["Rate that thing over there."]))
    assert together[1].score == pytest.approx(alone[0].score, abs=1e-3)


def test_nothing_to_judge_is_no_mistake_and_free_text_is_refused():
    judge = LocalJudge(small_model("llama"), Numbers(whole=False), "m")
    assert list(judge.judgements([])) == []
    with pytest.raises(UserError, match="binary_text"):
        LocalJudge(small_model("llama"), Numbers(whole=False), "m", "binary_text")


@pytest.mark.parametrize(
    ("begins", "before"),
    [
        ("<assistant><think>", "<think></think>\n\n"),
        ("<|start|>assistant", "<|channel|>final<|message|>"),
        ("<assistant>", "<assistant>"),
    ],
)
def test_a_local_judge_begins_its_score_where_its_model_answers(begins, before):
    template = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}" + begins
    tokenizer = tiny_tokenizer(template)
    judge = LocalJudge(small_model("llama"), tokenizer, "tiny")
    assert tokenizer.decode(judge._encode("How kind?")).endswith(f"{before}Score:")
