"""Each response by which the API server refuses a RayCluster is reported with the server's words and what to do."""

import json
import uuid
from typing import Any

import pytest

from rayworks.cluster.kubernetes.diagnosis import refusal
from tests.cluster.kubernetes_objects import KubernetesObjects, record
from tests.cluster.raycluster_manifests import Place, policy, quota, ray_cluster, webhook
from tests.waiting import eventually

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(900), pytest.mark.xdist_group("refusals")]

SECONDS = 60
REFUSALS = {
    "forbidden": (403, "the account lacks a permission", 'cannot create resource "rayclusters"'),
    "policy": (422, "is refused by the rules of the namespace", "the label cost-centre is missing"),
    "webhook": (500, "cannot be checked by an admission webhook", 'failed calling webhook "rules.example.com"'),
    "quota": (403, "exceeds the quota of the namespace", "exceeded quota: small"),
    "invalid": (422, "has an invalid manifest", "spec.headGroupSpec: Required value"),
    "malformed": (400, "has an invalid manifest", "does not match the expected API version"),
    "no-kuberay": (404, "KubeRay is not installed", "404 page not found"),
    "no-namespace": (404, "the namespace does not exist", 'namespaces "absent" not found'),
    "credentials": (401, "does not accept the credentials", "Unauthorized"),
    "exists": (409, "the RayCluster already exists", "already exists"),
}
"""The status of each response, what the error must say, and which of the server's words it must quote."""


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_is_reported_with_the_words_of_the_api_server(name: str, image: str):
    from kubernetes.client import ApiClient, ApiException, Configuration, CustomObjectsApi

    status, clause, words = REFUSALS[name]
    kubernetes, client, version = KubernetesObjects(), ApiClient(), "v2" if name == "no-kuberay" else "v1"
    place = Place(f"rw-diag-{name}-{uuid.uuid4().hex[:4]}", image, "", "", 0)
    target = "absent" if name == "no-namespace" else place.namespace
    cluster = ray_cluster(place, suspend=True) | {"apiVersion": f"ray.io/{version}"}
    cluster["metadata"]["namespace"] = target
    causes = {
        "policy": lambda: policy(place, "ray.io", "rayclusters"),
        "webhook": lambda: webhook(place, "ray.io", "rayclusters"),
        "quota": lambda: [quota(place, **{"count/rayclusters.ray.io": "0"})],
        "exists": lambda: [cluster],
    }.get(name, list)()
    if name == "invalid":
        del cluster["spec"]["headGroupSpec"]
    elif name == "malformed":
        cluster["apiVersion"] = "ray.io/v2"
    elif name == "forbidden":
        client.set_default_header("Impersonate-User", f"system:serviceaccount:{place.namespace}:default")
    elif name == "credentials":
        other = Configuration(host=client.configuration.host, api_key={"authorization": "Bearer wrong"})
        other.ssl_ca_cert = client.configuration.ssl_ca_cert
        client = ApiClient(other)
    dry_run = None if name == "exists" else "All"

    def response() -> Any:
        try:  # a rule needs a moment before it is in force
            CustomObjectsApi(client).create_namespaced_custom_object(
                "ray.io", version, target, "rayclusters", cluster, dry_run=dry_run
            )
        except ApiException as refused:
            return refused if refused.status == status else None

    kubernetes.create_namespace(place.namespace)
    try:
        kubernetes.create(causes)
        refused = eventually(response, SECONDS, "the API server accepted it")
    finally:
        kubernetes.delete_namespace(place.namespace)
        kubernetes.delete_cluster_wide(causes)
    try:
        body = json.loads(refused.body)
    except ValueError:
        body = {"message": refused.body}
    record(f"refused-{name}", {"status": refused.status, "body": body})
    reported = refusal(refused.status, body, f"RayCluster {target}/ray")
    assert clause in reported.what
    assert words in reported.detail
    assert reported.remedy
