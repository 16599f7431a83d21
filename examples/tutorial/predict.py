"""Ranks with the exported model: `python examples/tutorial/predict.py MODEL_FOLDER SAMPLES_FOLDER`.

Prints the predicted click probability of each item of one request, and whether it was clicked. Runs
in the trainer's environment.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.dataset as ds

from schemas import generations
from trainer.serving.model import ServedModel


def main() -> int:
    """Exit code 0."""
    model_folder, samples_folder = (Path(argument) for argument in sys.argv[1:3])
    model = ServedModel.open(model_folder / "serving")
    files = [str(file) for file in generations.files(samples_folder, "samples")]
    rows = ds.dataset(files, format="parquet").to_table()
    clicked = rows.filter(pc.equal(rows["label_click"], 1))
    request = rows.filter(pc.equal(rows["request_id"], clicked["request_id"][0]))
    click = model.actions.index("click")
    scores = model.predict(request.select(model.columns))[:, click]
    print(f"request {request['request_id'][0]} of user {request['user_id'][0]}")
    print("item      logged at position  P(click)  clicked")
    for score, row in sorted(zip(scores, request.to_pylist(), strict=True), key=lambda p: -p[0]):
        yes = "yes" if row["label_click"] else ""
        print(f"{row['item_id']:8}  {row['position']:18}  {score:8.3f}  {yes}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
