"""How verdicts on whole responses do on texts that no fit and no threshold has seen.

    python benchmarks/verdicts.py                        the embedded model's vectors
    python benchmarks/verdicts.py --experiment my_exp    another experiment's, on its own model

``verdict_texts.jsonl`` beside this file has 220 everyday answers and 15 positive and 15 negative ones to each trait, by
writers who knew neither the corpus nor the method. Every text is read by every trait's default vector.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from extraction.monitoring.texts import monitor_texts
from extraction.monitoring.vectors import choose_vectors, vectors_in
from scipy.stats import binom  # type: ignore[import-untyped]

from traitlens.validation.evaluation import auroc
from utils.experiment import Experiment
from utils.formats.transcripts import Transcript
from utils.models.compatibility import load_model_for
from utils.models.generation import Sampling
from utils.records import MonitoringRecord

TEXTS = Path(__file__).with_name("verdict_texts.jsonl")
LENGTHS = {"4-15 tokens": (1, 15), "16-60": (16, 60), "over 60": (61, 10**9)}


@dataclass(frozen=True)
class Text:
    """A text of the benchmark, and what monitoring says of it."""

    trait: str
    side: str
    kind: str
    record: MonitoringRecord

    def holds(self, trait: str, rule: str) -> bool:
        """Whether a rule calls the trait expressed."""
        verdict, scores = self.record.verdicts.get(trait), self.record.trait_scores[trait]
        if rule == "any token over its 5 % threshold":
            return max(scores) > self.record.thresholds[trait]["fpr_5"]
        if rule == "mean above zero":
            return sum(scores) / len(scores) > (self.record.baselines[trait] or 0.0)
        if verdict is None:
            return False
        p = verdict["p_value" if rule.startswith("expressed") else "p_neutral"]
        return isinstance(p, float) and p <= (0.01 if "1 %" in rule else 0.05)


RULES = (
    "any token over its 5 % threshold", "mean above zero", "unlike neutral text, 5 %", "unlike neutral text, 1 %",
    "expressed, 5 %", "expressed, 1 %",
)  # fmt: skip


def main() -> None:
    """Read the texts, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default="smollm2_135m")
    parser.add_argument("--experiments_dir", type=Path, default=Path("experiments"))
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--limit", type=int, help="read only so many texts of each side and trait")
    arguments = parser.parse_args()
    texts = read_texts(arguments)
    traits = list(texts[0].record.trait_scores)
    by_rule(texts, traits)
    by_trait(texts, traits)
    by_group(texts, traits)
    windows(texts, traits)


def read_texts(arguments: argparse.Namespace) -> list[Text]:
    """All texts, read with every trait's default vector."""
    rows = [json.loads(line) for line in TEXTS.read_text(encoding="utf-8").splitlines()]
    if arguments.limit:
        seen: dict[tuple[str, str], int] = defaultdict(int)
        kept = []
        for row in rows:
            seen[row["trait"], row["side"]] += 1
            if seen[row["trait"], row["side"]] <= arguments.limit:
                kept.append(row)
        rows = kept
    chosen = choose_vectors(Experiment(arguments.experiments_dir, arguments.experiment))
    loaded = load_model_for(vectors_in(chosen), None)
    transcripts = [Transcript(({"role": "user", "content": row["question"]},), row["response"]) for row in rows]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]["response"]))
    records: dict[int, MonitoringRecord] = {}
    for start in range(0, len(order), arguments.batch_size):
        part = order[start : start + arguments.batch_size]
        read = monitor_texts(loaded, chosen, [transcripts[i] for i in part], Sampling())
        records |= dict(zip(part, read, strict=True))
    return [Text(row["trait"], row["side"], row["kind"], records[i]) for i, row in enumerate(rows)]


def share(held: Sequence[bool]) -> str:
    """A share in per cent; empty without any."""
    return f"{100 * sum(held) / len(held):5.1f}" if held else "    -"


def of_side(texts: Sequence[Text], side: str, trait: str) -> list[Text]:
    """Texts of a side: of a trait, or everyday ones, which are of none."""
    return [text for text in texts if text.side == side and text.trait in ("", trait)]


def by_rule(texts: Sequence[Text], traits: Sequence[str]) -> None:
    """What each rule flags, over all traits, and how many of the traits that a text was not written for."""
    print(f"{'rule':34s} neutral  negative  positive   other traits a text")
    for rule in RULES:
        cells = [
            share([text.holds(trait, rule) for trait in traits for text in of_side(texts, side, trait)])
            for side in ("neutral", "neg", "pos")
        ]
        others = [sum(t.holds(o, rule) for o in traits if o != t.trait) for t in texts if t.side in ("pos", "neg")]
        print(f"{rule:34s} {cells[0]} %   {cells[1]} %   {cells[2]} %   {sum(others) / len(others):.2f}")


def by_trait(texts: Sequence[Text], traits: Sequence[str]) -> None:
    """Rates of each trait, with the most that 5 % (1 %) may flag by chance, one time in forty."""
    n = len([t for t in texts if t.side == "neutral"])
    most = [int(binom.ppf(0.975, n, rate)) for rate in (0.05, 0.01)]
    print(f"\nof {n} neutral texts 5 % may flag up to {100 * most[0] / n:.1f} %, 1 % up to {100 * most[1] / n:.1f} %")
    print(f"{'trait':15s} AUROC neg  neutral | neutral 5 %   1 % | found 5 %   1 % | expressed: neutral  neg   found")
    sums = defaultdict(list)
    for trait in traits:
        sides = {side: of_side(texts, side, trait) for side in ("pos", "neg", "neutral")}
        cells = [_auroc(sides["pos"], sides["neg"], trait), _auroc(sides["pos"], sides["neutral"], trait)]
        for side, rule in (
            ("neutral", 2),
            ("neutral", 3),
            ("pos", 2),
            ("pos", 3),
            ("neutral", 4),
            ("neg", 4),
            ("pos", 4),
        ):
            held = [text.holds(trait, RULES[rule]) for text in sides[side]]
            cells.append(100 * sum(held) / len(held))
        for i, cell in enumerate(cells):
            sums[i].append(cell)
        print(_row(trait, cells))
    print(_row("mean", [sum(values) / len(values) for values in sums.values()]))


def _row(name: str, cells: Sequence[float]) -> str:
    a, b, *rest = cells
    return f"{name:15s} {a:9.3f}  {b:7.3f} | {rest[0]:11.1f} {rest[1]:5.1f} | {rest[2]:9.1f} {rest[3]:5.1f} | " + (
        f"{rest[4]:18.1f} {rest[5]:5.1f} {rest[6]:6.1f}"
    )


def _auroc(pos: Sequence[Text], neg: Sequence[Text], trait: str) -> float:
    means = [sum(t.record.trait_scores[trait]) / len(t.record.tokens) for t in (*pos, *neg)]
    return auroc(torch.tensor(means), torch.arange(len(means)) < len(pos))


def by_group(texts: Sequence[Text], traits: Sequence[str]) -> None:
    """Rates by length of the response, and by kind of neutral text, over all traits."""
    print(f"\n{'':22s} neutral: 5 %   1 %   expressed 5 %    negative: expressed   positive: 5 %  expressed")
    for name, (least, most) in LENGTHS.items():
        part = [text for text in texts if least <= len(text.record.tokens) <= most]
        pairs = {
            side: [(t, trait) for trait in traits for t in of_side(part, side, trait)]
            for side in ("neutral", "neg", "pos")
        }
        cells = [
            share([t.holds(trait, RULES[rule]) for t, trait in pairs[side]])
            for side, rule in (("neutral", 2), ("neutral", 3), ("neutral", 4), ("neg", 4), ("pos", 2), ("pos", 4))
        ]
        print(f"{name:22s} {cells[0]:>12s} {cells[1]} {cells[2]:>12s} {cells[3]:>20s} {cells[4]:>18s} {cells[5]:>8s}")
    for kind in dict.fromkeys(t.kind for t in texts if t.side == "neutral"):
        part = [t for t in texts if t.kind == kind]
        cells = [share([t.holds(trait, RULES[rule]) for trait in traits for t in part]) for rule in (2, 3, 4)]
        print(f"{kind:22s} {cells[0]:>12s} {cells[1]} {cells[2]:>12s}")


def windows(texts: Sequence[Text], traits: Sequence[str]) -> None:
    """AUROC of the mean over a few tokens, against negative and against neutral text, over all traits."""
    print("\ntokens together   AUROC against negatives   against neutral text")
    for size in (1, 4, 8, 16, 32, math.inf):
        cells = []
        for opposite in ("neg", "neutral"):
            values = []
            for trait in traits:
                pos = _windows(of_side(texts, "pos", trait), trait, size)
                neg = _windows(of_side(texts, opposite, trait), trait, size)
                values.append(auroc(torch.tensor(pos + neg), torch.arange(len(pos) + len(neg)) < len(pos)))
            cells.append(sum(values) / len(values))
        name = "whole response" if math.isinf(size) else str(size)
        print(f"{name:17s} {cells[0]:23.3f} {cells[1]:22.3f}")


def _windows(texts: Sequence[Text], trait: str, size: float) -> list[float]:
    means = []
    for text in texts:
        scores = text.record.trait_scores[trait]
        width = len(scores) if math.isinf(size) else min(int(size), len(scores))
        means += [sum(scores[i : i + width]) / width for i in range(0, len(scores) - width + 1, width)]
    return means


if __name__ == "__main__":
    main()
