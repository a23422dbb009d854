"""Sets back where the lake reads on in a topic. Records that it has read are read again, which changes no row: order is
in the record (R1), and what lies below the marks of side tables is not written twice (R5)."""

from collections.abc import Mapping

from connectors.control_log import ControlLog
from connectors.lake import LakeStore
from processors.errors import MovedError, UsageError

REWOUND_KIND = "rewound"


def stored_offsets(store: LakeStore, log: str, topic: str, partitions: int) -> dict[int, int]:
    """Where the lake reads on, by partition; none where it has read nothing."""
    ids = {f"offset:{topic}:{b}": b for b in range(partitions)}
    return {ids[i]: offset for i, offset in store.fenced(log).stored(tuple(ids)).items()}


def rewind(store: LakeStore, *, stage: str, log: str, topic: str, offsets: Mapping[int, int]) -> dict[int, int]:
    """Commits these next offsets to the stage's log and returns the former ones, all partitions at once or none.

    It is an opening of these buckets: a worker that owns one is refused at its next commit (R8), starts again, and
    reads from there. Raises UsageError for an offset beyond the stored one, which would skip records, or where none is.
    """
    control = ControlLog(store)
    while True:
        writer = store.fenced(log)
        places = {b: (f"offset:{topic}:{b}", f"epoch:{stage}:{b}") for b in offsets}
        seen = writer.stored(tuple(i for ids in places.values() for i in ids))
        before = {b: seen.get(place) for b, (place, _) in places.items()}
        for bucket, offset in offsets.items():
            stood = before[bucket]
            if stood is None or offset > stood:
                held = "has read nothing of it" if stood is None else f"stands at {stood}"
                raise UsageError(
                    f"{topic}-{bucket}: the lake {held}, {offset} is not behind that",
                    hint="forward would skip records without a trace; what cannot be read goes to the dead letters",
                )
        epochs = {b: seen[epoch] + 1 for b, (_, epoch) in places.items()}
        ids = {place: offsets[b] for b, (place, _) in places.items()}
        ids |= {epoch: epochs[b] for b, (_, epoch) in places.items()}
        # First told, then done: told in vain it only lets a check pass that would have passed anyhow.
        entry = {"stage": stage, "topic": topic, "epochs": [{"bucket": b, "epoch": e} for b, e in epochs.items()]}
        control.note(REWOUND_KIND, entry)
        try:
            writer.open(ids, {"stage": stage, "kind": REWOUND_KIND}, seen=seen)
        except MovedError:
            continue
        return {b: stood for b, stood in before.items() if stood is not None}
