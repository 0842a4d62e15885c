"""The gRPC servicer of holdouts: the wire to the use cases and back."""

from __future__ import annotations

from luthier.evaluator.v1 import holdout_service_pb2 as pb
from luthier.evaluator.v1 import holdout_service_pb2_grpc as rpc
from luthier.evaluator.v1.holdout_pb2 import Holdout

from luthierd.evaluator.api import holdout_wire as wire
from luthierd.evaluator.decisions.holdout_ledger import Holdouts
from luthierd.rpc.contract import Context
from luthierd.rpc.wire import to_proto


class HoldoutServicer(rpc.HoldoutServiceServicer):
    """`luthier.evaluator.v1.HoldoutService`."""

    def __init__(self, holdouts: Holdouts) -> None:
        self._holdouts = holdouts

    async def GetHoldout(self, request: pb.GetHoldoutRequest, context: Context) -> pb.GetHoldoutResponse:
        return pb.GetHoldoutResponse(holdout=to_proto(Holdout, await self._holdouts.get(request.name)))

    async def ListHoldoutAccesses(
        self, request: pb.ListHoldoutAccessesRequest, context: Context
    ) -> pb.ListHoldoutAccessesResponse:
        page = await self._holdouts.accesses(request.parent, request.page_size, request.page_token)
        return pb.ListHoldoutAccessesResponse(
            accesses=[wire.access_to_proto(access) for access in page.items], next_page_token=page.next_page_token
        )
