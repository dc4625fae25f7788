"""Controls that read the response's text and no activation."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from traitlens.compute import has_both_classes
from traitlens.validation.cross_validation import comparable
from traitlens.validation.folds import Folds


def bag_of_words_scores(texts: Sequence[str], labels: Tensor, folds: Folds) -> Tensor:
    """Held-out scores [n] of a logistic regression on word and word-pair frequencies (TF-IDF).

    Where it separates the responses as well as a vector, the vector may read vocabulary and nothing else.
    """
    import numpy as np
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    scores = torch.full((len(texts),), torch.nan, dtype=torch.float64)
    words, targets = np.array(texts, dtype=object), labels.numpy()
    for cell in folds.cells:
        train, test = folds.train(folds.exclusion(cell)), folds.test(cell)
        if not has_both_classes(labels[train]):
            continue
        # Any run of word characters or single mark is a word, so that "I", "!" and scripts without spaces count.
        vectorizer = TfidfVectorizer(token_pattern=r"\w+|[^\w\s]", ngram_range=(1, 2), sublinear_tf=True)
        classifier = make_pipeline(vectorizer, LogisticRegression(C=10.0, max_iter=1000))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                classifier.fit(words[train.numpy()], targets[train.numpy()])
        except ValueError as error:
            if "empty vocabulary" not in str(error):
                raise
            continue
        values = torch.from_numpy(classifier.decision_function(words))
        scores[test] = comparable(values, labels, train)[test]
    return scores
