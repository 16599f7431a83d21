"""Joins a feature stream with an action stream into labelled samples.

    python -m jobs.join_samples --config FILE [--set a.b=value ...]
    flink run -pyfs . -py jobs/join_samples.py --config FILE

Locally it runs on a mini-cluster inside this process and waits for the end of bounded input; with
`flink run` it submits to the cluster. Exit codes: 0 done, 1 the job failed, 2 something in the
configuration or the set-up is wrong, 130 interrupted.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # as a script, which is how `flink run -py` starts it
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rich.console import Console

from jobs.pipeline import environment
from jobs.pipeline.command_line import add_pipeline
from jobs.pipeline.config import ConfigError, KafkaSource, Pipeline, load, secrets_of
from jobs.pipeline.failures import explain as explain_failure
from jobs.pipeline.secrets import Redaction, Secret

DONE, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130

console = Console(stderr=True, highlight=False)


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code."""
    arguments = _parser().parse_args(argv)
    try:
        pipeline = load(arguments.config, arguments.set)
        return _run(pipeline, arguments)
    except (ConfigError, environment.SetupError) as error:
        console.print(f"join_samples: {error}", markup=False, soft_wrap=True)
        return WRONG
    except KeyboardInterrupt:
        console.print("join_samples: interrupted; what was complete is written")
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="join_samples",
        description=(__doc__ or "").split("\n\n")[0],
        epilog="The configuration is described in docs/configuration.md. Exit codes: 0 done, "
        "1 the job failed, 2 configuration or set-up is wrong, 130 interrupted.",
    )
    add_pipeline(parser)
    parser.add_argument(
        "--explain",
        action="store_true",
        help="print the resolved configuration and Flink's plan, and run nothing",
    )
    return parser


def _run(pipeline: Pipeline, arguments: argparse.Namespace) -> int:
    log_folder = _log_folder(pipeline, keep=not arguments.explain)
    if not environment.submitted():
        environment.prepare_process(log_folder)
    if not arguments.explain:
        from jobs.pipeline import preflight

        for note in preflight.check(pipeline):
            console.print(f"join_samples: {note}", markup=False, soft_wrap=True)
    # pyflink reads the environment when it is imported, so not before
    from jobs.pipeline import graph

    log = _log(log_folder)
    hide = Redaction(secrets_of(pipeline))
    for handler in log.handlers:
        handler.addFilter(hide)
    try:
        with _status("planning"):
            env, tables = environment.stream_environment(pipeline)
            joining = graph.build(pipeline, env, tables)
        if arguments.explain:
            _print_explained(pipeline, joining.explain())
            return DONE
        job = joining.start()
        if environment.submitted():
            # the cluster has it now; `flink list` tells how it goes
            print(f"submitted as job {job.get_job_id()}")
            return DONE
        _wait(job, pipeline)
    except (ConfigError, environment.SetupError):
        raise
    except Exception as error:
        log.exception("the job failed")
        console.print(
            f"join_samples: {hide(explain_failure(error))}\n"
            f"join_samples: the whole story is in {log_folder}",
            markup=False,
            soft_wrap=True,
        )
        return FAILED
    console.print(
        f"join_samples: done; samples are in {pipeline.output.path}", markup=False, soft_wrap=True
    )
    return DONE


def _wait(job: Any, pipeline: Pipeline) -> None:
    """Until the job ends. Raises what it failed with."""
    done = job.get_job_execution_result()
    started = time.monotonic()
    with _status("joining") as status:
        while not done.done():
            seconds = time.monotonic() - started
            status.update(f"joining · {seconds:.0f} s · {_written(pipeline.output.path)}")
            time.sleep(0.2)
    done.result()


def _written(path: str) -> str:
    """How much lies in the output, for the eye; only local folders can be looked at cheaply."""
    if "://" in path:
        return "running"
    size = sum(f.stat().st_size for f in Path(path).glob("samples/*/*/*") if f.is_file())
    return f"{size / 1e6:.1f} MB of samples"


def _status(text: str) -> Any:
    return console.status(text)


def _log_folder(pipeline: Pipeline, *, keep: bool) -> Path:
    """`_logs` in a local output (readers pass over it), else in the working directory.

    What runs nothing (`keep` False) leaves nothing behind in the output.
    """
    if not keep:
        return Path(tempfile.mkdtemp(prefix="sample-stitch-logs-"))
    root = Path() if "://" in pipeline.output.path else Path(pipeline.output.path)
    return (root / "_logs").resolve()


def _log(folder: Path) -> logging.Logger:
    log = logging.getLogger("join_samples")
    log.propagate = False
    if not log.handlers:
        folder.mkdir(parents=True, exist_ok=True)
        log.addHandler(logging.FileHandler(folder / "join_samples.log"))
    return log


def _print_explained(pipeline: Pipeline, plan: str) -> None:
    """To standard output. Values from the environment stay out of it."""
    out = Console(highlight=False)
    out.print("configuration", style="bold")
    listed = [(key, value) for key, value in _flat(pipeline) if value != "None"]
    width = max(len(key) for key, _ in listed)
    for key, value in listed:
        out.print(f"  {key:{width}}  {value}", markup=False, soft_wrap=True)
    out.print("\nplan", style="bold")
    out.print(plan, markup=False, soft_wrap=True)


def _flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    if isinstance(value, KafkaSource):
        fields = {n: getattr(value, n) for n in value.__struct_fields__}
        fields["properties"] = dict.fromkeys(value.properties, "(set)")
    elif hasattr(value, "__struct_fields__"):
        fields = {n: getattr(value, n) for n in value.__struct_fields__}
    elif isinstance(value, dict):
        fields = value
    else:
        unit = " ms" if type(value).__name__ == "Duration" else ""
        return [(prefix, "(set)" if isinstance(value, Secret) else f"{value}{unit}")]
    rows: list[tuple[str, str]] = []
    for name, inner in fields.items():
        rows += _flat(inner, f"{prefix}.{name}".lstrip("."))
    return rows


if __name__ == "__main__":
    code = main()
    if os.environ.get("PYFLINK_GATEWAY_PORT") is None or code:
        sys.exit(code)
