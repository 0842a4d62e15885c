"""A stage of another distribution: one file and an entry point, used through the SDK by the real server and worker."""

from __future__ import annotations

import pathlib
from collections.abc import AsyncIterator

import pytest
from luthier.client import AsyncClient
from luthier.curation.v1 import dataset_pb2 as pb
from luthier.endpoints import Endpoints
from luthier.errors import InvalidArgumentError
from luthierd.curation.build import build
from luthierd.curation.config import CurationConfig
from luthierd.rpc.auth import TokenIssuer
from luthierd.rpc.keys import create_keys
from support.plugins import install_plugin
from support.serving import serving

DATASET = "tenants/acme/datasets/shouts"
WAIT_S = 120.0
STAGE = '''
import dataclasses

from luthierd.curation.domain import Change, Message
from luthierd.curation.stages.stage import Applied, Stage
from luthierd.settings import setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShoutSettings:
    marks: int = setting(1, at_least=1, at_most=3)


class Shout(Stage):
    """Makes every answer loud, and drops those that are loud already."""

    name, Settings = "shout", ShoutSettings

    def apply(self, rows, progress):
        kept, changes = [], []
        for row in rows:
            if row.completion.endswith("!"):
                changes.append(Change(row.id, "loud_already", is_dropped=True))
                continue
            *prompt, answer = row.parts
            loud = Message(answer.role, answer.content.upper() + "!" * self.settings.marks)
            kept.append(row.with_parts([*prompt, loud]))
            changes.append(Change(row.id, "made_loud"))
        return Applied(kept, changes, {"mark_count": self.settings.marks * len(kept)}, "## Shouts\\n")
'''


@pytest.fixture
async def client(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AsyncClient]:
    install_plugin(tmp_path / "site", "luthier.curation_stages", "shout", "Shout", STAGE, monkeypatch=monkeypatch)
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path))
    create_keys(tmp_path / "keys")
    config = CurationConfig(home=tmp_path)
    token = TokenIssuer.of(config).issue(tenant="acme", subject="tester")
    service = await build(config)
    async with (
        serving(service, config) as bound,
        AsyncClient(Endpoints(curation=bound.address), token=token) as made,
    ):
        await made.datasets.import_rows(
            DATASET, [{"prompt": f"Word {n}?", "completion": f"word {n}" + "!" * (n == 9)} for n in range(10)]
        )
        yield made


async def test_a_stage_of_another_distribution_curates_and_explains(client: AsyncClient) -> None:
    stages = [pb.CurationStage(stage="shout", settings={"marks": 2}), pb.CurationStage(stage="split")]
    begun = await client.datasets.curate(DATASET, recipe=pb.CurationRecipe(stages=stages))
    revision = await client.datasets.wait_revision(begun.name, timeout_s=WAIT_S)
    assert [(one.stage, one.dropped_count, one.changed_count) for one in revision.stages] == [
        ("shout", 1, 9),
        ("split", 0, 0),
    ]
    answers = [
        row["messages"][-1]["content"]
        for split in (pb.SPLIT_TRAIN, pb.SPLIT_VALIDATION, pb.SPLIT_HOLDOUT)
        async for row in client.datasets.rows(revision.name, split)
    ]
    assert sorted(answers) == [f"WORD {n}!!" for n in range(9)]
    sheet = await client.datasets.datasheet(revision.name)
    assert sheet["shout"] == {"mark_count": 18}
    assert sheet["stages"][0]["reasons"]["loud_already"]["count"] == 1
    assert "## Shouts" in sheet["page_markdown"]


async def test_its_settings_are_checked_before_the_curation_starts(client: AsyncClient) -> None:
    for name, settings, hint in (
        ("shout", {"marks": 4}, "recipe.shout.marks: must be at least 1 and at most 3"),
        ("shout", {"mraks": 1}, "did you mean marks?"),
        ("shuot", {}, "did you mean shout?"),
    ):
        stages = [pb.CurationStage(stage=name, settings=settings), pb.CurationStage(stage="split")]
        with pytest.raises(InvalidArgumentError) as caught:
            await client.datasets.curate(DATASET, recipe=pb.CurationRecipe(stages=stages))
        assert hint in str(caught.value)
