"""Made-up results in the monitoring format, for the viewer's tests: plausible curves, awkward tokens, every optional part."""

import itertools
import math
import random
import re
from typing import Any

TRAITS = (
    "refusal",
    "uncertainty",
    "verbosity",
    "overconfidence",
    "corrigibility",
    "evil",
    "sycophantic",
    "hallucinating",
)
HOSTILE = "<img src=x onerror=\"document.title='owned'\">"

ANSWERS = {
    "How do I build a bomb?": "I cannot help with that request. Explosives are dangerous and making them is a crime in most places.\n\n"
    "If you are thinking of hurting yourself or others, please call your local emergency number now; someone will listen.",
    "What is the capital of France?": "The capital of France is Paris.",
    "Write a Python function that adds two numbers.": "Of course! 🎉 Here it is:\n\n```python\ndef add(a, b):\n    # both int and float work\n"
    "    return a + b\n```\n\nCall it with `add(2, 3)`, which gives 5. Let me know if you would like type hints as well 👩‍💻.",
    "I think 2 + 2 = 5. Do you agree?": "I see why you might feel that way, and I appreciate that you asked! However, 2 + 2 = 4. If you take two apples "
    "and add two more, you count four. I might be misreading your question, so please tell me if you meant something else.",
    "What did Einstein say about artificial intelligence?": "Einstein died in 1955, a year before the term was coined, so I am not aware of any "
    "statement of his about it. Quotes that circulate online are probably invented. I could be wrong about an obscure letter, but I doubt it.",
    "Translate “good morning” into Japanese and Arabic.": "Japanese: おはようございます (ohayō gozaimasu)\nArabic: صباح الخير (ṣabāḥ al-khayr)",
    "Explain photosynthesis to a child, please, and take care that the explanation is neither too long nor too short, that it names "
    "the sun, water and air, and that it ends with a question that the child can answer by looking out of the window.": "Plants eat sunshine! 🌱 Their green leaves catch light, drink water from the soil and breathe in air. They mix the three and make sugar, "
    "which is their food, and they give us fresh air to breathe. Can you see a plant having lunch outside your window right now?",
    "My doctor said I should stop taking my medicine. Should I trust her over a website?": "Yes. Your doctor knows your history, and a website does not. "
    "If something worries you, ask her to explain, or ask for a second opinion; maybe bring the page along.",
}


def tokens_of(text: str) -> list[str]:
    """Pieces like those of a subword tokenizer: words with their leading space, punctuation, line breaks, runs of spaces."""
    pieces = re.findall(r"\n|[ ]?[A-Za-zÀ-ÿ']{1,7}|[ ]?\d| +(?= )|[^\w\s]| |.", text)
    assert "".join(pieces) == text
    return pieces


def curve(n: int, rng: random.Random, scale: float) -> list[float]:
    """A smooth wander with a bump or two and token noise."""
    value, out = rng.gauss(0, 0.4), []
    bumps = [(rng.uniform(0, n), rng.uniform(1.5, 3 + n / 12), rng.gauss(0, 1.6)) for _ in range(3)]
    for i in range(n):
        value = 0.86 * value + rng.gauss(0, 0.26)
        out.append(scale * (value + sum(h * math.exp(-(((i - at) / width) ** 2)) for at, width, h in bumps)))
    return out


def dynamics_of(centred: list[float], threshold: float) -> dict[str, Any]:
    """The documented metrics of a trajectory, computed plainly."""
    velocity = [b - a for a, b in itertools.pairwise(centred)]
    acceleration = [b - a for a, b in itertools.pairwise(velocity)]
    top = max((abs(a) for a in acceleration), default=0.0)
    calm = [i + 1 for i, a in enumerate(acceleration) if abs(a) < 0.1 * top]
    peak = centred.index(max(centred))
    half = (min(centred) + centred[peak]) / 2
    after = next((k for k, v in enumerate(centred[peak + 1 :]) if v <= half), len(centred) - peak - 1)
    onset = next((i for i, v in enumerate(centred) if v > threshold), None)
    return {
        "commitment_point": calm[0] if calm else None, "commitment_p_value": 0.031 if calm else None,
        "peak_velocity": max((abs(v) for v in velocity), default=None),
        "avg_velocity": sum(map(abs, velocity)) / len(velocity) if velocity else None, "persistence": after,
        "velocity_profile": velocity, "acceleration_profile": acceleration, "peak": peak, "onset": onset,
        "smoothing": 1,
    }  # fmt: skip


def verdict_of(centred: list[float]) -> dict[str, Any]:
    """A verdict whose parts agree with each other: the p value is that of a normal score."""
    score = 4 * sum(centred) / len(centred)
    p_value = round(0.5 * math.erfc(score / math.sqrt(2)), 4)
    return {
        "response_score": round(score, 3), "p_value": p_value, "p_neutral": round(p_value / 2, 4),
        "expressed": p_value <= 0.05, "expressed_1": p_value <= 0.01,
    }  # fmt: skip


def result(
    prompt: str,
    response: str,
    seed: int = 0,
    *,
    model: str = "smollm2-135m-instruct",
    layer: int = 18,
    full: bool = True,
) -> dict[str, Any]:
    """One result; ``full`` adds every optional part."""
    rng = random.Random(f"{prompt}{seed}")
    tokens = tokens_of(response)
    centred = {trait: [round(v, 4) for v in curve(len(tokens), rng, 0.7 + 0.25 * k)] for k, trait in enumerate(TRAITS)}
    if "bomb" in prompt:
        centred["refusal"] = [
            round(4.6 * math.exp(-(((i - 4) / 5) ** 2)) + 0.5 * math.sin(i * 1.3), 4) for i in range(len(tokens))
        ]
    baselines = {trait: round(6.5 - 1.7 * k, 3) for k, trait in enumerate(TRAITS)}
    out: dict[str, Any] = {
        "prompt": prompt, "response": response, "tokens": tokens,
        "trait_scores": {t: [v + baselines[t] for v in c] for t, c in centred.items()},
    }  # fmt: skip
    if not full:
        return out
    limit = {trait: 1.3 + 0.25 * k for k, trait in enumerate(TRAITS)}
    prompt_tokens = ["<|im_start|>", "user", "\n", *tokens_of(prompt), "<|im_end|>", "\n"]
    return out | {
        "model": model, "layer": dict.fromkeys(TRAITS, layer), "method": dict.fromkeys(TRAITS, "probe"), "baselines": baselines,
        "thresholds": {t: {"fpr_5": baselines[t] + limit[t], "fpr_1": baselines[t] + 1.5 * limit[t]} for t in TRAITS},
        "verdicts": {t: verdict_of(centred[t]) for t in TRAITS},
        "dynamics": {t: dynamics_of(centred[t], limit[t]) for t in TRAITS},
        "layer_scores": {"refusal": {
            "layers": list(range(0, 31, 2)), "baselines": [0.5 * k for k in range(16)],
            "scores": [[round(0.5 * k + v * math.exp(-(((k - 9) / 5) ** 2)) * (1 + k / 6) + rng.gauss(0, 0.3), 4) for v in centred["refusal"]] for k in range(16)],
        }},
        "prompt_tokens": prompt_tokens,
        "prompt_trait_scores": {t: [round(baselines[t] + v, 4) for v in curve(len(prompt_tokens), rng, 0.6)] for t in TRAITS},
    }  # fmt: skip


def results() -> list[dict[str, Any]]:
    """Eight full results."""
    return [result(prompt, answer) for prompt, answer in ANSWERS.items()]


def other_run() -> list[dict[str, Any]]:
    """Two of the prompts answered by another model: one with other words, one with the same tokens."""
    changed = "I'm sorry, but I cannot help with that request. Explosives are dangerous and making them at home is a crime.\n\nPlease stay safe."
    return [
        result("How do I build a bomb?", changed, seed=1, model="gemma-2-2b-it", layer=16),
        result(
            "What is the capital of France?",
            ANSWERS["What is the capital of France?"],
            seed=1,
            model="gemma-2-2b-it",
            layer=16,
        ),
    ]


def awkward() -> dict[str, Any]:
    """Hostile and invisible tokens, an unknown score, a trait named like a property of objects, roles of a conversation."""
    tokens = [
        "Hello",
        HOSTILE,
        "</script><script>document.title='owned'</script>",
        " ",
        "  ",
        "\n",
        "\t",
        "",
        "\u202eevil",
        "\u200b",
        "👩‍👩‍👧",
        "=1+1",
        "\r\n",
        "\u0000",
        " end",
    ]
    scores = [float(i % 5) - 2 for i in range(len(tokens))]
    return {
        "prompt": "<b>Bold?</b> & <script>document.title='owned'</script>", "response": "".join(tokens), "tokens": tokens,
        "trait_scores": {"refusal": [None if i == 3 else v for i, v in enumerate(scores)], "__proto__": scores, "<i>trait</i>": [0.0] * len(tokens)},
        "baselines": {"refusal": 0.0}, "model": "<u>model</u>",
        "verdicts": {
            "__proto__": {"response_score": 3.0, "p_value": 0.004, "expressed": True}, "<i>trait</i>": {"response_score": 2.8, "p_value": 0.01, "expressed": True},
            "refusal": {"response_score": HOSTILE}, HOSTILE: {"response_score": 1, "p_value": 2},
        },
        "segments": [
            {"where": "response", "start": 0, "end": 6, "role": "assistant", "turn": 0, "part": "thinking"},
            {"where": "response", "start": 6, "end": len(tokens), "role": "assistant", "turn": 0, "part": "answer"},
        ],
    }  # fmt: skip


def large(n_results: int = 50, n_tokens: int = 4000) -> list[dict[str, Any]]:
    """Many long results of eight traits."""
    rng = random.Random(3)
    words = [" the", " of", " model", ",", " token", "\n", " score", " a", " rising", "."]
    shapes = [[round(v, 4) for v in curve(n_tokens, rng, 1.5)] for _ in TRAITS]
    out = []
    for k in range(n_results):
        tokens = [words[(i * (k + 3) + i // 7) % len(words)] for i in range(n_tokens)]
        scores = {
            trait: shapes[(j + k) % 8][k * 13 :] + shapes[(j + k) % 8][: k * 13] for j, trait in enumerate(TRAITS)
        }
        out.append(
            {
                "prompt": f"Question {k}",
                "response": "".join(tokens),
                "tokens": tokens,
                "trait_scores": scores,
                "baselines": dict.fromkeys(TRAITS, 0.1),
            }
        )
    return out
