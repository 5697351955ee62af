# SPDX-License-Identifier: Apache-2.0
"""Writes classification.json: AUROC, average precision, F1, accuracy of scikit-learn and the
calibration error of torchmetrics on random probabilities and labels.
"""

import torch
from sklearn import metrics
from torchmetrics.functional.classification import binary_calibration_error

import golden_file
import tiny_models

# name, items, whether probabilities are rounded (ties), how far labels follow them
CASES = (("plain", 200, 0, 0.8), ("ties", 120, 1, 0.6), ("weak", 60, 2, 0.1), ("few", 7, 2, 0.9))


def judged(name, count, decimals, strength):
    p = (tiny_models.uniform(f"probability {name}", count).astype("float64") + 1) / 2
    noise = (tiny_models.uniform(f"label {name}", count).astype("float64") + 1) / 2
    labels = (strength * p + (1 - strength) * noise > 0.5).astype(int)
    return (p.round(decimals) * 0.998 + 0.001 if decimals else p), labels


def ece(labels, p):
    # torchmetrics sums in the type of its bins, float32 unless the default is another.
    torch.set_default_dtype(torch.float64)
    return float(binary_calibration_error(torch.tensor(p), torch.tensor(labels), n_bins=15))


def case(settings):
    p, labels = judged(*settings)
    said = (p >= 0.5).astype(int)
    return {
        "name": settings[0],
        "probabilities": golden_file.digits(p, 17),
        "labels": labels.tolist(),
        "auroc": float(metrics.roc_auc_score(labels, p)),
        "auprc": float(metrics.average_precision_score(labels, p)),
        "precision": float(metrics.precision_score(labels, said)),
        "recall": float(metrics.recall_score(labels, said)),
        "f1": float(metrics.f1_score(labels, said)),
        "accuracy": float(metrics.accuracy_score(labels, said)),
        "ece": ece(labels, p),
    }


def main():
    golden_file.write(
        "classification.json",
        ["scikit-learn", "torch", "torchmetrics"],
        {"cases": [case(settings) for settings in CASES]},
    )


if __name__ == "__main__":
    main()
