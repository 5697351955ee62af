# SPDX-License-Identifier: Apache-2.0
"""Writes guard_figures.json: scikit-learn's figures of two labelled sets with rows without a
verdict, which count as wrong, and their means weighted by rows (numpy).
"""

import numpy
from sklearn import metrics

import golden_file
import tiny_models


def guard_set(name, count, missing):
    """`missing`: every so many rows have no verdict."""
    p = (tiny_models.uniform(f"guard {name}", count).astype("float64") + 1) / 2
    noise = (tiny_models.uniform(f"guard label {name}", count).astype("float64") + 1) / 2
    labels = (0.7 * p + 0.3 * noise > 0.5).astype(int)
    answered = numpy.arange(count) % missing != 0
    judged = numpy.where(answered, p, 1.0 - labels)
    said = (judged >= 0.5).astype(int)
    negatives = metrics.confusion_matrix(labels, said)[0]
    return {
        "name": name,
        "probabilities": [float(x) if there else None for x, there in zip(p, answered)],
        "labels": labels.tolist(),
        "f1": float(metrics.f1_score(labels, said)),
        "precision": float(metrics.precision_score(labels, said)),
        "recall": float(metrics.recall_score(labels, said)),
        "auroc": float(metrics.roc_auc_score(labels, judged)),
        "auprc": float(metrics.average_precision_score(labels, judged)),
        "false_positive_rate": float(negatives[1] / negatives.sum()),
    }


if __name__ == "__main__":
    sets = [guard_set("first", 90, 9), guard_set("second", 40, 7)]
    rows = [len(one["labels"]) for one in sets]
    names = ("f1", "precision", "recall", "auroc", "auprc", "false_positive_rate")
    weighted = {name: float(numpy.average([one[name] for one in sets], weights=rows)) for name in names}
    golden_file.write("guard_figures.json", ["scikit-learn", "numpy"], {"sets": sets, "weighted": weighted})
