import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny_tokenizer import tiny_tokenizer
from utils.errors import UserError
from utils.prompts import (
    encode_prompt,
    encode_response,
    format_conversation,
    format_prompt,
    system_role,
    template_hash,
    token_texts,
)

GEMMA_LIKE = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<turn>{{ m['role'] }}\n{{ m['content'] | trim }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>model\n{% endif %}"
)
SILENT = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] != 'system' %}[{{ m['content'] }}]{% endif %}{% endfor %}"
)
WITH_DATE = (
    "{{ bos_token }}<sys>Date: today\n{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}"
    "{% set messages = messages[1:] %}{% endif %}</sys>{% for m in messages %}[{{ m['content'] }}]{% endfor %}"
)


@pytest.mark.parametrize("template", [GEMMA_LIKE, SILENT, WITH_DATE, None], ids=["gemma", "silent", "dated", "base"])
def test_a_prompt_has_one_bos_and_shows_the_instruction_whatever_the_template_does_with_system_messages(template):
    tokenizer = tiny_tokenizer(template)
    text = format_prompt(tokenizer, "Why is it so?", "Be brief.")
    ids = encode_prompt(tokenizer, text)
    assert ids.count(1) == 1
    assert ids[0] == 1
    assert "Be brief." in text
    assert text.index("Be brief.") < text.index("Why is it so?")


def test_without_a_system_role_the_instruction_stands_before_the_question_in_the_users_turn():
    text = format_prompt(tiny_tokenizer(GEMMA_LIKE), "Why?", "Be brief.")
    assert text == "<s><turn>user\nBe brief.\n\nWhy?<end>\n<turn>model\n"


def test_a_template_that_states_the_date_anyway_gets_no_empty_system_message():
    assert format_prompt(tiny_tokenizer(WITH_DATE), "Why?") == "<s><sys>Date: today\n</sys>[Why?]"


def test_a_base_model_reads_question_and_answer_lines():
    assert format_prompt(tiny_tokenizer(None), "Why?", "Be brief.") == "Be brief.\n\nQuestion: Why?\nAnswer:"
    conversation = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    assert format_conversation(tiny_tokenizer(None), conversation) == "Question: a\nAnswer: b\n\nQuestion: c\nAnswer:"


@pytest.mark.parametrize(
    ("template", "role"), [(None, "plain format"), (GEMMA_LIKE, "user turn"), (WITH_DATE, "template")]
)
def test_the_place_of_an_instruction_is_said(template, role):
    assert system_role(tiny_tokenizer(template)) == role


def test_a_conversation_that_the_template_refuses_or_drops_is_one_clear_error():
    with pytest.raises(UserError, match="chat template writes nothing for this conversation"):
        format_prompt(tiny_tokenizer("{% if messages | length > 7 %}more{% endif %}"), "Why?")
    with pytest.raises(UserError, match="chat template refuses this conversation: no"):
        format_prompt(tiny_tokenizer("{{ raise_exception('no') }}"), "Why?")


def test_templates_are_told_apart_by_their_hash():
    assert len({template_hash(tiny_tokenizer(t)) for t in (GEMMA_LIKE, SILENT, WITH_DATE, None)}) == 4


def test_the_embedded_models_own_system_prompt_is_kept_out(embedded):
    assert "SmolLM" not in format_prompt(embedded.tokenizer, "Hi?")
    assert format_prompt(embedded.tokenizer, "Hi?", "Be rude.").startswith("<|im_start|>system\nBe rude.<|im_end|>")


@settings(max_examples=60, deadline=None)
@given(text=st.text(st.characters(codec="utf-8"), min_size=1, max_size=25))
def test_token_texts_join_to_the_decoded_text_whatever_is_split(text):
    tokenizer = tiny_tokenizer(None)
    ids = encode_response(tokenizer, text)
    texts = token_texts(tokenizer, ids)
    assert len(texts) == len(ids)
    assert "".join(texts) == text


@pytest.mark.parametrize(
    "text", ["👨‍👩‍👧 family", "你好，世界", "e\u0301 cafe\u0301", "  two  spaces\n\n\ttab", "نص عربي", "🇫🇷🏴‍☠️"]
)
def test_characters_split_over_the_embedded_models_tokens_are_shown_whole(embedded, text):
    texts = token_texts(embedded.tokenizer, encode_response(embedded.tokenizer, text))
    assert "".join(texts) == text
    assert not any("\ufffd" in t for t in texts)


def test_bytes_that_never_become_a_character_end_as_a_replacement_character(embedded):
    ids = encode_response(embedded.tokenizer, "ok 👨")[:-1]
    assert "".join(token_texts(embedded.tokenizer, ids)) == embedded.tokenizer.decode(ids)


OPENS = (
    "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant><think>\n{% endif %}"
)
SWITCH = (
    "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}<assistant>"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
)
CHANNELS = (
    "{{ bos_token }}{% for m in messages %}<|start|>{{ m['role'] }}<|message|>{{ m['content'] }}<|end|>{% endfor %}"
    "<|start|>assistant"
)
PARTS = (
    "{{ bos_token }}{% for m in messages %}{{ m['role'] }}:{% for p in m['content'] %}{% if p['type'] == 'text' %}"
    "{{ p['text'] }}{% endif %}{% endfor %}{% endfor %}"
)


@pytest.mark.parametrize(
    ("template", "own", "answering"),
    [
        (OPENS, "<assistant><think>\n", "<assistant><think>\n\n</think>\n\n"),
        (SWITCH, "<assistant>", "<assistant><think>\n\n</think>\n\n"),
        (CHANNELS, "<|start|>assistant", "<|start|>assistant<|channel|>final<|message|>"),
        (GEMMA_LIKE, "<turn>model\n", "<turn>model\n"),
    ],
    ids=["opened", "switch", "channels", "none"],
)
def test_a_plain_answer_is_read_where_the_model_answers_and_a_model_generates_as_it_would(template, own, answering):
    tokenizer = tiny_tokenizer(template)
    assert format_prompt(tokenizer, "Why?").endswith(answering)
    assert format_prompt(tokenizer, "Why?", thinks=None).endswith(own)
    assert format_conversation(tokenizer, [{"role": "user", "content": "Why?"}]).endswith(own)


def test_a_template_that_leaves_out_the_question_or_the_instruction_is_refused():
    with pytest.raises(UserError, match=r"leaves out the user's 'Why\?': those of image-text models want parts"):
        format_prompt(tiny_tokenizer(PARTS), "Why?")
    first_only = "{{ bos_token }}{{ messages[0]['content'] }}"
    chat = [{"role": r, "content": c} for r, c in (("user", "First?"), ("assistant", "Yes."), ("user", "Second?"))]
    with pytest.raises(UserError, match="leaves out the user's 'Second"):
        format_conversation(tiny_tokenizer(first_only), chat)


def test_a_template_that_writes_a_text_as_json_or_with_other_spaces_shows_it():
    text = 'Is "this"\n\n shown? '
    for how in ("| tojson", "| trim | replace('\\n\\n', '\\n')"):
        template = "{{ bos_token }}{% for m in messages %}{{ m['content'] " + how + " }}{% endfor %}"
        assert "shown?" in format_prompt(tiny_tokenizer(template), text)


def test_a_template_that_is_set_later_is_the_one_that_counts():
    tokenizer = tiny_tokenizer(None)
    assert format_prompt(tokenizer, "Why?", "Be brief.").startswith("Be brief.")
    tokenizer.chat_template = GEMMA_LIKE
    assert format_prompt(tokenizer, "Why?", "Be brief.") == "<s><turn>user\nBe brief.\n\nWhy?<end>\n<turn>model\n"
    assert system_role(tokenizer) == "user turn"
