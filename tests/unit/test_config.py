"""Configuration: what is read, and the one line that says what is wrong."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.pipeline.config import ConfigError, FilesSource, KafkaSource, load, secrets_of
from jobs.pipeline.kafka_properties import login_module
from jobs.pipeline.secrets import Redaction

GOOD = """
[actions.click]
window = "10min"
[features.price]
type = "float64"
[sources.features]
type = "files"
path = "in/features"
[sources.actions]
type = "files"
path = "/data/actions"
[output]
path = "out"
"""
KAFKA = """
[actions.click]
window = "10min"
[sources.features]
type = "kafka"
topic = "f"
bootstrap_servers = "b:1"
[sources.features.properties]
"security.protocol" = "SASL_SSL"
"sasl.mechanism" = "PLAIN"
"sasl.jaas.config" = '''
org.apache.kafka.common.security.plain.PlainLoginModule required
username="joiner" password="${SECRET}";'''
[sources.actions]
type = "kafka"
topic = "a"
bootstrap_servers = "b:1"
[output]
path = "s3://bucket/out"
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "pipeline.toml"
    path.write_text(text)
    return path


def test_paths_are_relative_to_the_file_and_durations_are_read(tmp_path: Path) -> None:
    pipeline = load(written(tmp_path, GOOD), ["join.clock_skew=250ms", "output.compact=false"])
    assert isinstance(pipeline.sources.features, FilesSource)
    assert isinstance(pipeline.sources.actions, FilesSource)
    assert pipeline.sources.features.path == str(tmp_path / "in" / "features")
    assert pipeline.sources.actions.path == "/data/actions"
    assert pipeline.rules.deadline(0) == 600_000 + 250
    assert pipeline.output.compact is False


def password(source: object) -> str:
    assert isinstance(source, KafkaSource)
    module = login_module(source.properties["sasl.jaas.config"])
    assert module is not None
    return module.options["password"]


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=20))
def test_secrets_come_from_the_environment_or_a_file(secret: str) -> None:
    """Quotes, backslashes and newlines of a secret are its own, and none is shown."""
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder), KAFKA)
        pipeline = load(path, environment={"SECRET": secret})
        assert password(pipeline.sources.features) == secret
        hide = Redaction(secrets_of(pipeline))
        assert isinstance(pipeline.sources.features, KafkaSource)
        shown = hide(f"bad {pipeline.sources.features.properties} {secret} {secret!r}")
        assert len(secret) < 4 or secret in "bad security.protocol" or secret not in shown

        (path.parent / "secret").write_text(secret + "\n", newline="")
        path.write_text(KAFKA.replace("${SECRET}", "${file:secret}"))
        assert password(load(path, environment={}).sources.features) == secret


def test_a_reference_that_leads_nowhere_names_the_key(tmp_path: Path) -> None:
    where = "sources.features.properties.sasl.jaas.config"
    with pytest.raises(ConfigError, match=rf"{where}: \$SECRET is not set"):
        load(written(tmp_path, KAFKA), environment={})
    text = KAFKA.replace("${SECRET}", "${file:none}")
    with pytest.raises(ConfigError, match=rf"{where}: \$\{{file:none\}}: No such file"):
        load(written(tmp_path, text), environment={})


def test_dotted_names_of_others_can_be_set(tmp_path: Path) -> None:
    overrides = ["flink.state.backend.type=rocksdb", "sources.actions.properties.a.b=c"]
    pipeline = load(written(tmp_path, KAFKA), overrides, {"SECRET": ""})
    assert pipeline.flink == {"state.backend.type": "rocksdb"}
    assert isinstance(pipeline.sources.actions, KafkaSource)
    assert pipeline.sources.actions.properties == {"a.b": "c"}


S = "sources.actions"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([f"{S}.start=committed"], rf"{S}.group_id: this key is required with start"),
        ([f"{S}.topic=a;b"], rf"{S}.topic: expected the name of one topic"),
        ([f"{S}.start=latest", f"{S}.end=latest"], rf"{S}.start: .*nothing to read"),
        ([f"{S}.start=5", f"{S}.end=5"], rf"{S}.end: must be after start \(5\)"),
        ([f"{S}.max_drift=1s"], r"sources.actions.max_drift: must be that of sources.features"),
        ([f"{S}.max_drift=0s"], rf"{S}.max_drift: must be longer than 0"),
        ([f"{S}.properties.group.id=g"], rf"{S}.properties.group.id: .*use the key group_id"),
        ([f"{S}.properties.client.id=c"], r"client.id: .*set client.id.prefix"),
        ([f"{S}.properties.enable.auto.commit=true"], r"committed at checkpoints"),
        ([f"{S}.properties.auto.offset.reset=latest"], r"auto.offset.reset: use the key start"),
        ([f"{S}.properties.isolation.levl=x"], r"no such property; did you mean isolation.level"),
        ([f"{S}.properties.isolation.level=x"], r"expected one of read_uncommitted, read_comm"),
        ([f"{S}.properties.ssl.protocol=TLS"], r"security.protocol: expected SSL or SASL_SSL"),
        ([f"{S}.properties.sasl.mechanism=PLAIN"], r"security.protocol: expected SASL_SSL or"),
        (
            [
                f"{S}.properties.security.protocol=SASL_SSL",
                f"{S}.properties.sasl.jaas.config=a.PlainLoginModule required",
            ],
            r"sasl.jaas.config: expected `<login module class> required",
        ),
        (
            [
                f"{S}.properties.security.protocol=SASL_SSL",
                f"{S}.properties.sasl.mechanism=PLAIN",
                f"{S}.properties.sasl.jaas.config=a.ScramLoginModule required;",
            ],
            r"sasl.mechanism: expected SCRAM-SHA-256 or SCRAM-SHA-512 with ScramLoginModule",
        ),
    ],
)
def test_what_kafka_would_not_do_is_said_in_one_line(
    tmp_path: Path, overrides: list[str], said: str
) -> None:
    with pytest.raises(ConfigError, match=said) as raised:
        load(written(tmp_path, KAFKA), overrides, {"SECRET": "x"})
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("join.polcy=wait", r"--set join.polcy=wait: join.polcy: there is no such key \(there are"),
        ("join.policy=hope", r"join.policy: .*expected one of wait, fake_negative, es_dfm, defer"),
        ("join.policy=es_dfm", r"emission.first_emit_after: the policy 'es_dfm' needs this key"),
        ("emission.first_emit_after=9d", r"first_emit_after: must be shorter than the longest"),
        ("exposure.action=seen", r"exposure.action: there is no \[actions.seen\]"),
        ("sampling.rate=1.5", r"sampling.rate: expected `float` <= 1.0"),
        ("sampling.rules=[{rate=0.5}]", r"sampling.rules\[0\]: says neither a feature nor"),
        ("sampling.rules=[{rate=0.5,feature='price'}]", r"feature and equals go together"),
        ("sampling.rules=[{rate=1,negative='unexposed'}]", r"without \[exposure\] nothing is"),
        ("label_silence.max_hold=1s", r"label_silence.after: this key is required"),
        ("join.key=item_id", r"join.key: .*expected one of request_id, user_id"),
        ("join.clock_skew=10", r"join.clock_skew: .*expected a duration"),
        ("join.late_horizon=1s", r"join.late_horizon: must be at least the longest window"),
        ("actions.click.window=0s", r"actions.click.window: must be longer than 0"),
        ("features.price.type=float", r"features.price.type: expected one of bool, int64"),
        ("features.item_id.type=string", r"features.item_id: the samples have a column"),
        ("features.label_click.type=string", r"features.label_click: the samples have a column"),
        ("features.PRICE.type=string", r"features.PRICE: the samples have a column 'price'"),
        ("output.path=3", r"output.path: expected `str`, got `int`"),
        ("runtime.parallelism=0", r"runtime.parallelism: expected `int` >= 1"),
        ("sources.actions.type=kinesis", r"sources.actions"),
        ("nothing", r"expected a.b=value"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as raised:
        load(written(tmp_path, GOOD), [override])
    assert "\n" not in str(raised.value)


def test_a_missing_key_and_broken_toml_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"pipeline.toml: output: this key is required"):
        load(written(tmp_path, GOOD.replace("[output]\npath", "[flink]\npath")))
    with pytest.raises(ConfigError, match=r"pipeline.toml: not valid TOML"):
        load(written(tmp_path, "[join"))
    with pytest.raises(ConfigError, match=r"there is no such file"):
        load(tmp_path / "none.toml")


def test_the_pipeline_in_the_readme_is_one(tmp_path: Path) -> None:
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text()
    block = re.search(r"```toml\n(.*?)```", readme, re.DOTALL)
    assert block is not None
    pipeline = load(written(tmp_path, block[1]))
    assert pipeline.label_silence is not None
    assert not pipeline.bounded
