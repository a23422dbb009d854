"""What stage A sends on: invoice documents by account, and charged lines by article where a set is derived by these."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from processors import charged_lines, invoice_documents
from processors.block_codec import BlockKind, encode_blocks
from processors.document_codec import DOCUMENT_BLOCKS
from processors.line_codec import LINE_BLOCKS
from processors.ports import DocumentSink


@dataclass
class Output:
    """One topic: how its rows are made of the touched invoices, in parts, and where they go.

    `name`: of its cursor, `NAME:BUCKET` in invoice_log. `through`: per partition of its topic an offset beyond the last
    records that were sent.
    """

    name: str
    sink: DocumentSink
    derive: Callable[..., Iterator[pa.Table]]
    blocks: BlockKind
    through: Mapping[int, int] = field(default_factory=dict)

    def send(self, rows: pa.Table, *, generation: str) -> None:
        """Sends a part; returns when the broker acknowledged it. Raises UnavailableError."""
        for keys, values in encode_blocks(self.blocks, rows, generation=generation):
            self.sink.send(keys, values)
        self.through = self.sink.flush()


def documents_output(sink: DocumentSink) -> Output:
    """Invoice documents, for stage B."""
    return Output("documents", sink, invoice_documents.derive, DOCUMENT_BLOCKS)


def lines_output(sink: DocumentSink) -> Output:
    """Charged lines, for stage C."""
    return Output("lines", sink, charged_lines.derive, LINE_BLOCKS)
