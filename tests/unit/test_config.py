"""Configuration: what is read, and the one line that says what is wrong."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from jobs.pipeline import environment
from jobs.pipeline.config import (
    ConfigError,
    FilesSource,
    KafkaSource,
    document,
    load,
    secrets_of,
)
from jobs.pipeline.jaas import login_module
from jobs.pipeline.secrets import Redaction
from jobs.pipeline.sources import decode_settings

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
        assert len(secret) < 4 or secret in "bad security.protocol (secret)" or secret not in shown

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
        ([f"{S}.topic=a;b"], rf"{S}.topic: expected the name of a topic"),
        ([f"{S}.topic=['a','b c']"], rf"{S}.topic: expected the name of a topic .* got 'b c'"),
        ([f"{S}.topic=['a','a']"], rf"{S}.topic: expected names, each once"),
        ([f"{S}.topic=[]"], rf"{S}.topic: expected names, each once"),
        ([f"{S}.topic_pattern=a.*"], rf"{S}.topic: one of topic .* and topic_pattern is required"),
        ([f"{S}.start=latest", f"{S}.end=latest"], rf"{S}.start: .*nothing to read"),
        ([f"{S}.start=5", f"{S}.end=5"], rf"{S}.end: must be after start \(5\)"),
        ([f"{S}.max_drift=1s"], r"sources.actions.max_drift: must be that of sources.features"),
        ([f"{S}.out_of_orderness=99d"], rf"{S}.out_of_orderness: must be shorter than 99 days"),
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
                f"{S}.properties.security.protocol=SSL",
                f"{S}.properties.ssl.truststore.certificates=x",
            ],
            r"ssl.truststore.type: expected PEM, since ssl.truststore.certificates is set",
        ),
        (
            [
                f"{S}.properties.security.protocol=SSL",
                f"{S}.properties.ssl.keystore.type=PEM",
                f"{S}.properties.ssl.keystore.password=x",
            ],
            r"ssl.keystore.password: a store of the type PEM has no password",
        ),
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
        ("actions.click.window=7", r"--set actions.click.window=7: actions.click.window: expected"),
        ("features.price.role=x", r"--set .*: features.price.role: .*one of feature, meta"),
        ("joins.key=user_id", r"^--set joins.key=user_id: joins: there is no such key \(there are"),
        ("flink=3", r"^--set flink=3: flink: expected `object`, got `int`"),
        ("output.path=[1]", r"^--set output.path=\[1\]: output.path: expected `str`"),
        ("sources.features.path=a\0b", r"sources.features.path: a path cannot hold a NUL"),
        ("output.path=a\\b", r"^--set .*: output.path: .*Flink takes a backslash for a slash"),
        ("runtime.checkpoint_path=a\\b", r"runtime.checkpoint_path: .*a backslash for a slash"),
        ("output.table=delta", r"output.table: .*one of files, iceberg"),
        ("output.path=~nobody-here/x", r"^--set .*: output.path: ~nobody-here/x: .*home"),
        ("actions.1st.window=1s", r"^--set actions.1st.window=1s: actions.1st: a kind becomes"),
        ("actions.CLICK.window=1s", r"actions.click: differs from 'CLICK' in upper and lower case"),
        ("features.price.type=list<x>", r"^--set features.price.type=list<x>: features.price.type"),
        ("join.late_horizon=1s", r"join.late_horizon: must be at least the longest window"),
        ("join.clock_skew=36501d", r"join.clock_skew: longer than 36500d \(100 years\): '36501d'"),
        (f"join.late_horizon={'9' * 5000}ms", r"join.late_horizon: longer than 36500d"),
        ("actions.click.window=0s", r"actions.click.window: must be longer than 0"),
        ("features.price.type=float", r"features.price.type: expected one of bool, int64"),
        ("features.item_id.type=string", r"features.item_id: the samples have a column"),
        ("features.label_click.type=string", r"features.label_click: the samples have a column"),
        ("features.PRICE.type=string", r"features.PRICE: the samples have a column 'price'"),
        ('features."a\\"b".type=int64', r'features."a\\"b": .*this name holds a ", which JSON'),
        ('features."a\\\\b".type=int64', r"this name holds a \\, which JSON must escape"),
        ('features."a\\nb".type=int64', r'features."a\\nb": .*the control character U\+000A'),
        ('features."\u2028".type=int64', r'features."\\u2028": .*control character U\+2028'),
        ('features."".type=int64', r'features."": .*this name is empty'),
        ("features.__x.type=int64", r"features.__x: .*names that begin with __ are kept"),
        (f"features.{'x' * 257}.type=int64", r"this name is longer than 256 characters"),
        ("sampling.rules=[{rate=1,feature='x y',equals=1}]", r'there is no \[features."x y"\]'),
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


def test_names_that_readers_take_for_one_are_refused(tmp_path: Path) -> None:
    """Spark and DuckDB fold case, file systems and editors normalise."""
    for one, other in (("Straße", "STRASSE"), ("caf\u00e9", "cafe\u0301"), ("DT", "dt")):
        text = GOOD + f'[features."{one}"]\ntype = "int64"\n'
        if other != "dt":  # a column of the samples itself
            text += f'[features."{other}"]\ntype = "int64"\n'
        with pytest.raises(ConfigError, match=r"the samples have a column .* already"):
            load(written(tmp_path, text))
    text = (
        GOOD + '[features."x.list.element"]\ntype = "int64"\n[features.x]\ntype = "list<int64>"\n'
    )
    with pytest.raises(ConfigError, match=r'features."x.list.element": Parquet calls the elements'):
        load(written(tmp_path, text))


def test_a_wrong_entry_is_named_and_so_is_who_said_it(tmp_path: Path) -> None:
    text = GOOD + '[actions."odd one"]\nwindow = 3\n[actions.ok]\nwindow = "1s"\n'
    with pytest.raises(ConfigError, match=r'pipeline.toml: actions."odd one".window: expected a d'):
        load(written(tmp_path, text))
    text = GOOD + "[actions.ok]\nlabel = 'most'\nwindow = '1s'\n"
    with pytest.raises(ConfigError, match=r"toml: actions.ok.label: .*expected one of any, count"):
        load(written(tmp_path, text))
    # what is wrong in the file is not blamed on an override
    with pytest.raises(ConfigError, match=r"^[^ ]*pipeline.toml: joins: there is no such key"):
        load(written(tmp_path, GOOD + "[joins]\n"), ["join.clock_skew=2s"])
    with pytest.raises(
        ConfigError, match=r"^[^ ]*pipeline.toml: label_silence.after: this key is r"
    ):
        load(written(tmp_path, GOOD + "[label_silence]\n"), ["label_silence.max_hold=2s"])
    with pytest.raises(
        ConfigError, match=r"^--set label_silence.max_hold=2s: label_silence.after: "
    ):
        load(written(tmp_path, GOOD), ["label_silence.max_hold=2s"])
    # what follows from several keys names the file and all overrides
    with pytest.raises(
        ConfigError,
        match=r"^[^ ]*toml with --set join.policy=es_dfm --set join.clock_skew=2s: emis",
    ):
        load(written(tmp_path, GOOD), ["join.policy=es_dfm", "join.clock_skew=2s"])


def test_names_with_dots_and_equals_can_be_set(tmp_path: Path) -> None:
    overrides = ['features."a.b".type=int64', 'features."x=y".type = "string"']
    pipeline = load(written(tmp_path, GOOD), overrides)
    assert [f.name for f in pipeline.schema.features] == ["price", "a.b", "x=y"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[join]\nkey = \n", r"not valid TOML: Invalid value \(at line 2, column 7\)"),
        (b"[join]\n\n[join", r"not valid TOML: .*\(at (the end, line 3|line 3, column 6)\)"),
        (b"[join]\nkey = '\xff'\n", r"not valid TOML: line 2 is not UTF-8"),
        (b"a = " + b"[" * 100_000, r"not valid TOML: "),
        (b"[join]\n[join]\n", r"not valid TOML: .*line 2"),
    ],
)
def test_broken_toml_is_said_with_its_line(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "pipeline.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=said) as raised:
        load(path)
    assert "\n" not in str(raised.value)
    with pytest.raises(ConfigError, match=r"Is a directory"):
        load(tmp_path)


def test_a_file_from_a_windows_editor_is_read(tmp_path: Path) -> None:
    path = tmp_path / "pipeline.toml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert load(path).bounded


def test_a_missing_key_and_broken_toml_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"pipeline.toml: output: this key is required"):
        load(written(tmp_path, GOOD.replace("[output]\npath", "[flink]\npath")))
    with pytest.raises(ConfigError, match=r"pipeline.toml: not valid TOML"):
        load(written(tmp_path, "[join"))
    with pytest.raises(ConfigError, match=r"there is no such file"):
        load(tmp_path / "none.toml")


def test_a_number_of_thousands_of_digits_is_no_traceback(tmp_path: Path) -> None:
    digits = "9" * 5000
    with pytest.raises(ConfigError, match=r"pipeline.toml: not valid TOML: a number has thousands"):
        load(written(tmp_path, f"{GOOD}\n[sampling]\nseed = {digits}\n"))
    with pytest.raises(ConfigError, match=r"sampling.seed: expected `int`, got `str`"):
        load(written(tmp_path, GOOD), [f"sampling.seed={digits}"])


def test_the_pipeline_in_the_readme_is_one(tmp_path: Path) -> None:
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text()
    block = re.search(r"```toml\n(.*?)```", readme, re.DOTALL)
    assert block is not None
    pipeline = load(written(tmp_path, block[1]))
    assert pipeline.label_silence is not None
    assert not pipeline.bounded


# -- the configuration that lies beside the output -------------------------------------------------


def test_the_document_of_a_pipeline_loads_as_the_same_pipeline(tmp_path: Path) -> None:
    path = tmp_path / "in" / "pipeline.toml"
    path.parent.mkdir()
    path.write_text(
        GOOD + '[sampling]\nrate = 0.5\n[[sampling.rules]]\nfeature = "price"\n'
        "equals = 1.5\nrate = 0.25\n"
    )
    out = tmp_path / "out 'x'"
    sets = [
        f"output.path={out}",
        "join.policy=es_dfm",
        "emission.first_emit_after=4s",
        "runtime.checkpoint_interval=5s",
        "flink.a.b=c",
        "features.price.role=meta",
    ]
    out.mkdir()
    written = out / "_pipeline.toml"
    written.write_text(tomli_w.dumps(document(path, sets)))
    assert load(written) == load(path, sets)
    # the folder may move: output.path is that of the file
    moved = tmp_path / "moved"
    out.rename(moved)
    assert load(moved / "_pipeline.toml").output.path == str(moved)


def test_the_document_of_a_pipeline_has_no_secret(tmp_path: Path) -> None:
    path = tmp_path / "pipeline.toml"
    path.write_text(KAFKA)
    literal = [
        "sources.actions.properties.ssl.keystore.password=hunter2",
        "sources.actions.properties.client.rack=me",
        "sources.actions.properties.security.protocol=SSL",
        "flink.s3.secret-key=hunter2",
        "flink.s3.access-key=hunter2",
    ]
    text = tomli_w.dumps(document(path, literal))
    assert "hunter2" not in text
    assert "${SECRET}" in text
    assert 'path = "s3://bucket/out"' in text
    again = tmp_path / "_pipeline.toml"
    again.write_text(text)
    with pytest.raises(ConfigError, match=r"\$SECRET is not set"):
        load(again, environment={})
    secrets = {"SECRET": "s", "SSL_KEYSTORE_PASSWORD": "hunter2"}
    secrets |= {"S3_SECRET_KEY": "hunter2", "S3_ACCESS_KEY": "hunter2"}
    source = load(again, environment=secrets).sources.actions
    assert isinstance(source, KafkaSource)
    assert source.properties == {
        "ssl.keystore.password": "hunter2",
        "client.rack": "me",
        "security.protocol": "SSL",
    }


def test_checkpoints_by_default(tmp_path: Path) -> None:
    path = tmp_path / "pipeline.toml"
    path.write_text(GOOD)
    files = load(path)
    assert (files.checkpoint_interval, files.checkpoints) == (None, f"{tmp_path}/out/_checkpoints")
    assert load(path, ["runtime.checkpoint_interval=5s"]).checkpoint_interval == 5_000
    path.write_text(KAFKA)
    kafka = load(path, environment={"SECRET": ""})
    assert (kafka.checkpoint_interval, kafka.checkpoints) == (
        60_000,
        "s3://bucket/out/_checkpoints",
    )
    assert load(path, ["runtime.checkpoint_path=cp"], {"SECRET": ""}).checkpoints == (
        str(tmp_path / "cp")
    )
    with pytest.raises(ConfigError, match="checkpoint_interval: must be longer than 0"):
        load(path, ["runtime.checkpoint_interval=0s"], {"SECRET": ""})
    with pytest.raises(ConfigError, match="file_readers: is for sources"):
        load(path, ["runtime.file_readers=2"], {"SECRET": ""})


@pytest.mark.parametrize(
    ("place", "fits"), [("out", True), ("hdfs://name/out", True), ("s3://bucket/out", False)]
)
def test_where_an_iceberg_table_can_be(tmp_path: Path, place: str, fits: bool) -> None:
    path = tmp_path / "pipeline.toml"
    path.write_text(GOOD)
    sets = ["output.table=iceberg", f"output.path={place}"]
    if fits:
        assert load(path, sets).output.table == "iceberg"
    else:
        with pytest.raises(ConfigError, match=r"output\.table: .*a URI of hdfs; this is one of s3"):
            load(path, sets)


@pytest.mark.parametrize(("key", "actions"), [("request_id", 3), ("user_id", 4)])
def test_each_join_key_has_a_limit_of_its_own(tmp_path: Path, key: str, actions: int) -> None:
    (tmp_path / "p.toml").write_text(GOOD)
    usual = load(tmp_path / "p.toml")
    assert usual.rules.max_actions == 100_000
    assert decode_settings(usual, ()).max_items == 10_000
    limits = ("items_per_request=2", "actions_per_request=3", "actions_per_user=4")
    pipeline = load(tmp_path / "p.toml", [f"join.key={key}", *(f"limits.{one}" for one in limits)])
    assert pipeline.rules.max_actions == actions
    assert decode_settings(pipeline, ()).max_items == 2
    with pytest.raises(ConfigError, match=r"limits\.actions_per_user"):
        load(tmp_path / "p.toml", ["limits.actions_per_user=0"])


@pytest.mark.parametrize(
    "option",
    [
        "execution.checkpointing.incremental",
        "state.backend.rocksdb.use-bloom-filter",
        "state.backend.rocksdb.memory.partitioned-index-filters",
    ],
)
def test_rocksdb_is_set_up_for_large_state_unless_the_pipeline_says_no(
    option: str, tmp_path: Path
) -> None:
    def said(*overrides: str) -> str | None:
        pipeline = load(written(tmp_path, KAFKA), overrides, {"SECRET": ""})
        return environment.options(pipeline).get(option)

    rocksdb = "runtime.state_backend=rocksdb"
    assert said() is None
    assert said(rocksdb) == "true"
    assert said(rocksdb, f"flink.{option}=false") == "false"


def test_several_readers_of_files_need_aligned_checkpoints(tmp_path: Path) -> None:
    option = "execution.checkpointing.unaligned.enabled"
    several = "runtime.file_readers=2"
    plain = load(written(tmp_path, GOOD), [several])
    assert environment.options(plain)[option] == "false"
    unaligned = load(written(tmp_path, GOOD), [several, f"flink.{option}=true"])
    with pytest.raises(ConfigError, match="must be false with"):
        environment.options(unaligned)
    alone = load(written(tmp_path, GOOD), [f"flink.{option}=true"])
    assert environment.options(alone)[option] == "true"
