"""A report that is a page as a PDF, made on this machine by WeasyPrint (`pip install 'bursar[pdf]'`).

Why     the daemon makes pages and needs no printer. Whatever the page names is not fetched: it is whole by
        itself, and a name that a user chose must open no address. The same page gives the same bytes.
"""

from __future__ import annotations

import os
from hashlib import blake2b
from typing import Any, NoReturn

from bursar.errors import BursarError
from bursar.extras import needing


def writer() -> Any:
    """WeasyPrint. Raises `BursarError` with the line that installs it."""
    with needing("a statement as PDF", "pdf"):
        try:
            import weasyprint
        except OSError as error:  # its libraries of the system: Pango
            raise BursarError(
                f"WeasyPrint cannot be used here: {error}; install Pango, or use .html"
            ) from None
    return weasyprint


def pdf_of(page: bytes) -> bytes:
    """The page as it prints."""
    identifier = blake2b(page, digest_size=16).digest()
    os.environ.setdefault("SOURCE_DATE_EPOCH", "0")  # or the parts of fonts in it say when they were cut out
    document = writer().HTML(string=page.decode(), url_fetcher=_refuse)
    made: bytes = document.write_pdf(pdf_identifier=identifier)
    return made


def _refuse(url: str, *_: Any, **__: Any) -> NoReturn:
    raise ValueError(f"nothing is fetched for a report: {url[:100]}")
