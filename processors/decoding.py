"""From the batches of any topic to a chunk of rows: which decoder reads what."""

from collections.abc import Mapping, Sequence

from processors.block_codec import BlockDecoder, BlockKind
from processors.dead_letters import dead_from_producer
from processors.decode import Decoder
from processors.document_codec import DOCUMENT_BLOCKS
from processors.inbox import Chunk
from processors.line_codec import LINE_BLOCKS
from processors.records import RawBatch
from processors.tables import CHARGED_LINES_TOPIC, DEAD_LETTERS_TOPIC, DOCUMENTS_TOPIC, TABLES_BY_NAME


class Decoding:
    """The decoders of one stage; used by one thread at a time. `names`: its topics, and what TOPICS calls them."""

    def __init__(
        self, names: Mapping[str, str], *, source_names: tuple[str, ...], generation: str, threads: int
    ) -> None:
        """`generation`: the lake's; documents and lines of another one are ignored."""
        self._names = names
        self._rows = Decoder(source_names=source_names, threads=threads)
        self._derived = {name: BlockDecoder(kind, generation=generation) for name, kind in _DERIVED.items()}

    def decode(self, topic: str, batches: Sequence[RawBatch], positions: Mapping[int, int]) -> Chunk:
        """The records of one topic, and the positions after them."""
        name, read = self._names[topic], sum(len(b) for b in batches)
        if name in self._derived:
            rows, ignored, dead = self._derived[name].decode(batches)
            return Chunk(topic, rows, read, positions, dead=dead, ignored=ignored)
        if name == DEAD_LETTERS_TOPIC:
            return Chunk(topic, None, read, positions, dead=dead_from_producer(batches))
        decoded = self._rows.decode(TABLES_BY_NAME[name], batches)
        return Chunk(
            topic,
            decoded.events,
            read,
            positions,
            dead=decoded.dead,
            truncates=decoded.truncates,
            ignored=decoded.ignored,
        )


_DERIVED: dict[str, BlockKind] = {DOCUMENTS_TOPIC: DOCUMENT_BLOCKS, CHARGED_LINES_TOPIC: LINE_BLOCKS}
