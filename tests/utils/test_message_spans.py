import pytest

from tests.tiny_tokenizer import CHAT, tiny_tokenizer
from traitlens import prompt_segments
from utils.prompts import encode_prompt, format_conversation, message_spans, token_texts

CHATML = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}<|im_start|>assistant"
TRIMS = "{% for m in messages %}<{{ m['role'] }} 2 yes>{{ (m['content'].split('</think>') | last) | trim }}{% endfor %}<assistant>"
REFUSES_SYSTEM = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}"
    "{% for m in messages %}<turn>{{ m['role'] }}\n{{ m['content'] | trim }}<end>\n{% endfor %}"
)
CONVERSATIONS = [
    [("user", "2")],
    [("user", "user"), ("assistant", "assistant"), ("user", "im_start")],
    [("system", "yes"), ("user", "e"), ("assistant", "2"), ("user", "e"), ("assistant", "s"), ("user", " yes \n")],
    [("user", "Why?"), ("assistant", "<think>Hm.</think>\n\nSo."), ("user", "m")],
]


@pytest.mark.parametrize(
    "template", [CHATML, TRIMS, REFUSES_SYSTEM, CHAT, None], ids=["chatml", "trims", "no system", "tiny", "base"]
)
@pytest.mark.parametrize("turns", CONVERSATIONS, ids=str)
def test_every_message_is_found_where_it_stands_however_short_it_is(template, turns):
    tokenizer = tiny_tokenizer(template)
    messages = [{"role": role, "content": content} for role, content in turns]
    text = format_conversation(tokenizer, messages)
    tokens = token_texts(tokenizer, encode_prompt(tokenizer, text))
    shown = "".join(tokens)
    spans = message_spans(tokenizer, messages, shown)
    found = [shown[start:end] for start, end in spans]
    wanted = [content.strip() for _, content in turns]
    assert found == [w.rpartition("</think>")[2].strip() if template is TRIMS else w for w in wanted]
    segments = prompt_segments(tokens, messages, spans)
    assert ["".join(tokens[s.start : s.end]) for s in segments] == found


def test_a_message_that_is_found_in_markup_without_spans_is_the_users_with_them():
    tokenizer = tiny_tokenizer(CHATML)
    messages = [{"role": "user", "content": "user"}]
    tokens = token_texts(tokenizer, encode_prompt(tokenizer, format_conversation(tokenizer, messages)))
    looked_for, followed = (
        prompt_segments(tokens, messages, s)[0].start
        for s in (None, message_spans(tokenizer, messages, "".join(tokens)))
    )
    assert "".join(tokens[:looked_for]) == "<|im_start|>"
    assert "".join(tokens[:followed]) == "<|im_start|>user\n"


def test_a_message_that_the_template_leaves_out_or_changes_beyond_recognition_has_no_place():
    tokenizer = tiny_tokenizer(
        "{% for m in messages %}{% if m['role'] == 'user' %}[{{ m['content'] }}]{% endif %}{% endfor %}"
    )
    messages = [{"role": r, "content": c} for r, c in (("user", "a"), ("assistant", "b"), ("user", "c"))]
    assert message_spans(tokenizer, messages, format_conversation(tokenizer, messages)) == [(1, 2), None, (4, 5)]
    upper = tiny_tokenizer("{% for m in messages %}[{{ m['content'] | tojson }}]{% endfor %}")
    quoted = [{"role": "user", "content": 'say "a"'}]
    assert message_spans(upper, quoted, format_conversation(upper, quoted)) == [None]
