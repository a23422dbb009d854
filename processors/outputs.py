"""What stage A sends on: invoice documents by account, and charged lines by article where a set is derived by these."""

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field

import duckdb

from processors import charged_lines, invoice_documents
from processors.block_codec import BlockKind, encode_blocks
from processors.document_codec import DOCUMENT_BLOCKS
from processors.line_codec import LINE_BLOCKS
from processors.ports import DocumentSink


@dataclass
class Output:
    """One topic: how its records are made of the touched invoices, and where they go.

    `name`: of its cursor, `NAME:BUCKET` in invoice_log. `through`: per partition of its topic an offset beyond the last
    records that were sent.
    """

    name: str
    sink: DocumentSink
    derive: Callable[..., int]
    relation: str
    blocks: BlockKind
    through: Mapping[int, int] = field(default_factory=dict)

    def send(self, con: duckdb.DuckDBPyConnection, *, generation: str) -> None:
        """Sends what was derived last; returns when the broker acknowledged all. Raises UnavailableError."""
        partitions = self.sink.partitions
        encoded = encode_blocks(self.blocks, con, self.relation, generation=generation, partitions=partitions)
        with closing(encoded) as slices:
            for keys, values in slices:
                self.sink.send(keys, values)
        self.through = self.sink.flush()


def documents_output(sink: DocumentSink) -> Output:
    """Invoice documents, for stage B."""
    return Output("documents", sink, invoice_documents.derive, invoice_documents.DOCUMENTS, DOCUMENT_BLOCKS)


def lines_output(sink: DocumentSink) -> Output:
    """Charged lines, for stage C."""
    return Output("lines", sink, charged_lines.derive, charged_lines.CHARGED_LINES, LINE_BLOCKS)
