"""A peer, in a process of its own: ``python -m benchmarks.trainer.run_peer SPEC``.

Each predicts a row before it learns it. Vowpal Wabbit runs its own driver in C++, over a file; the
others get matrices (scikit-learn) and dictionaries (river) of what lies in memory, and are timed
from there. In the form "strings", scikit-learn is timed from the Parquet on.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.trainer.child import pin, tell
from benchmarks.trainer.data import FTRL, SLOTS, tables
from benchmarks.trainer.peer_input import NUMBERS, STRINGS, read
from benchmarks.trainer.spec import PeerSpec

SKLEARN_BATCH = 4096
#: The rate falls with the fourth root of the rows. Of those that were tried (constant ones, too)
#: the one with the least log loss; its own default ("optimal") ends worse than a constant
#: prediction.
SKLEARN_RATE = {"learning_rate": "invscaling", "eta0": 0.3, "power_t": 0.25}
#: Columns of what is hashed.
SKLEARN_HASHED = 2**20
_BITS = 24


def main() -> int:
    """One measurement, as a process of its own: a `PeerSpec` as JSON in, figures out."""
    spec = msgspec.json.decode(sys.argv[1], type=PeerSpec)
    pin(spec.core)
    measured = {"vw": _vw, "sklearn": _sklearn, "river": _river}[spec.peer](spec)
    tell(**measured)
    return 0


def _vw(spec: PeerSpec) -> dict[str, Any]:
    from vowpalwabbit import Workspace

    folder, scratch = Path(spec.data), Path(spec.scratch)
    text = folder / (STRINGS if spec.form == "strings" else NUMBERS)
    options = (
        "--ftrl --noconstant --loss_function logistic --quiet"
        f" --ftrl_alpha {spec.alpha} --ftrl_beta {FTRL['beta']}"
        f" --l1 {FTRL['l1']} --l2 {FTRL['l2']} -b {_BITS}"
    )
    arguments = [*options.split(), "-d", str(text)]
    if spec.form == "cache":
        cache = ["--cache_file", str(scratch / "cache")]
        Workspace(arg_list=[*arguments, *cache, "-k"]).finish()
        # it reads what is there, and the text not at all
        arguments = [*options.split(), "-d", "/dev/null", *cache]
    predictions = scratch / "predictions.txt"
    if spec.predictions:
        arguments += ["-p", str(predictions)]
    began, cpu_began = time.perf_counter(), time.process_time()
    # the whole driver runs in here
    workspace = Workspace(arg_list=arguments)
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
    rows = int(workspace.get_weighted_examples())
    log_loss = workspace.get_sum_loss() / rows
    workspace.finish()
    labels = read(folder)[2]
    if rows != len(labels):
        raise ValueError(f"{rows} of {len(labels)} rows were read")
    auc = None
    if spec.predictions:
        auc = _auc(labels, np.loadtxt(predictions))
    return _told(rows, seconds, log_loss, labels, auc) | {"cpu_s": cpu_s}


def _sklearn(spec: PeerSpec) -> dict[str, Any]:
    from sklearn.linear_model import SGDClassifier

    columns = SKLEARN_HASHED if spec.form == "strings" else spec.ids
    batches = _hashed(spec) if spec.form == "strings" else _matrices(spec)
    model = SGDClassifier(loss="log_loss", penalty=None, fit_intercept=False, **SKLEARN_RATE)
    model.partial_fit(np.zeros((1, columns)), [0], classes=[0, 1])
    predicted, labels = [], []
    next(batches)
    began = time.perf_counter()
    for batch, clicked in batches:
        predicted.append(model.decision_function(batch))
        labels.append(clicked)
        model.partial_fit(batch, clicked)
    seconds = time.perf_counter() - began
    logits, clicks = np.concatenate(predicted), np.concatenate(labels)
    loss = np.logaddexp(0.0, np.where(clicks == 1, -logits, logits)).mean()
    return _told(len(clicks), seconds, float(loss), clicks, _auc(clicks, logits))


def _matrices(spec: PeerSpec) -> Iterator[tuple[Any, Any]]:
    """Batches of what lies in memory once the first, which is none, was given."""
    from scipy.sparse import csr_matrix

    ids, values, labels = read(Path(spec.data), spec.rows)
    there = ids >= 0
    starts = np.concatenate([[0], np.cumsum(there.sum(axis=1))])
    flat_ids, flat_values = ids[there], values[there].astype(np.float64)
    yield None, None
    for start in range(0, len(labels), SKLEARN_BATCH):
        end = min(len(labels), start + SKLEARN_BATCH)
        at = slice(starts[start], starts[end])
        parts = (flat_values[at], flat_ids[at], starts[start : end + 1] - starts[start])
        yield csr_matrix(parts, shape=(end - start, spec.ids)), labels[start:end]


def _hashed(spec: PeerSpec) -> Iterator[tuple[Any, Any]]:
    """Batches from the Parquet, by `FeatureHasher`; the first is none."""
    from sklearn.feature_extraction import FeatureHasher

    hasher = FeatureHasher(SKLEARN_HASHED, alternate_sign=False)
    yield None, None
    left = spec.rows or sys.maxsize
    for table in tables(Path(spec.data)):
        for batch in table.slice(0, left).to_batches(SKLEARN_BATCH):
            left -= batch.num_rows
            labels = batch.column("label_click").to_numpy()
            rows = batch.drop_columns(["label_click"]).to_pylist()
            yield hasher.transform(map(_named, rows)), labels
        if left <= 0:
            return


def _named(row: dict[str, Any]) -> dict[str, Any]:
    """Numbers that are categories, and booleans, as strings, which it makes keys of."""
    named: dict[str, Any] = {"bias": 1.0}
    for name, value in row.items():
        if value is not None:
            named[name] = value if SLOTS[name] else str(value)
    return named


def _river(spec: PeerSpec) -> dict[str, Any]:
    from river import linear_model, optim

    ids, values, labels = read(Path(spec.data), spec.rows)
    rows = len(labels)
    samples = [
        {i: v for i, v in zip(of_ids, of_values, strict=True) if i >= 0}
        for of_ids, of_values in zip(ids.tolist(), values.tolist(), strict=True)
    ]
    model = linear_model.LogisticRegression(
        optim.FTRLProximal(**FTRL | {"alpha": spec.alpha}), intercept_lr=0.0
    )
    predicted = np.empty(rows)
    clicked = labels.astype(bool).tolist()
    began = time.perf_counter()
    for n, (sample, label) in enumerate(zip(samples, clicked, strict=True)):
        predicted[n] = model.predict_proba_one(sample)[True]
        model.learn_one(sample, label)
    seconds = time.perf_counter() - began
    chance = np.clip(np.where(labels == 1, predicted, 1.0 - predicted), 1e-12, 1.0)
    return _told(rows, seconds, float(-np.log(chance).mean()), labels, _auc(labels, predicted))


def _auc(labels: Any, predicted: Any) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(labels, predicted))


def _told(
    rows: int, seconds: float, log_loss: float, labels: Any, auc: float | None
) -> dict[str, Any]:
    ctr = float(np.mean(labels))
    entropy = -(ctr * np.log(ctr) + (1.0 - ctr) * np.log1p(-ctr))
    return {
        "rows": rows,
        "seconds": seconds,
        "log_loss": log_loss,
        "normalized_entropy": log_loss / float(entropy),
        "auc": auc,
    }


if __name__ == "__main__":
    sys.exit(main())
