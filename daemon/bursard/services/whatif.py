"""A what-if as it is asked for: documents to try, read and refused like those that are applied."""

from __future__ import annotations

from collections.abc import Sequence

from bursar.errors import InvalidRequest
from bursar.v1 import money_pb2 as pb
from bursar_policies.compile import Applied, PriceTable
from bursar_policies.document import parse_files
from bursar_policies.specs import CostModelSpec, Document, PriceBookSpec
from bursard.engine import Engine
from bursard.reports.pages import Page
from bursard.reports.period import Period
from bursard.reports.whatif import Trial, read_by, whatif
from bursard.services.page_reports import MakePage
from bursard.services.sources import named_texts
from bursard.state import State
from bursard.state.admission import check_currency
from bursard.store import Unposted


def whatif_page(engine: Engine, request: pb.ReportRequest, period: Period) -> MakePage:
    """Raises `InvalidRequest` for what cannot be grouped by; the page does for what is no price of the site's
    currency. Documents are read with the page, which is made in a thread.
    """
    by = read_by(request.by)
    if not request.sources:
        raise InvalidRequest("sources: there are no prices to try; name a file of a PriceBook or a CostModel")
    files = named_texts(request.sources)
    nodes = {node.id: node.facts for node in engine.state.nodes.values()}
    state, views, project = engine.state, engine.views, request.project

    def make(unposted: Unposted) -> Page:
        documents = parse_files(files)
        _check(state, documents)
        prices = PriceTable(Applied(document, number) for number, document in enumerate(documents, 1))
        return whatif(views, period, state.currency, unposted, project, Trial(prices, nodes, by))

    return make


def _check(state: State, documents: Sequence[Document]) -> None:
    for document in documents:
        where = f"{document.source}:{document.line}: {document.kind} {document.name}"
        if isinstance(document.spec, CostModelSpec):
            check_currency(state, document.spec.node_capex.currency, where)
        elif isinstance(document.spec, PriceBookSpec):
            check_currency(state, document.spec.currency, where)
        else:
            raise InvalidRequest(f"{where} is no price; a what-if takes PriceBook and CostModel documents")
