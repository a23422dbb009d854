"""How far the lake is, by what its logs say: over all buckets, whoever owns them."""

from collections.abc import Mapping, Sequence

from processors.feature_stages import FeatureStage
from processors.lake_tables import changes_name
from processors.ports import FencedLog, Lake, LakeProgress
from processors.stages import PRICES_ID, ROWS_ID, InvoiceStage, SkuStage


class ProgressLook:
    """Looks again and again; the handles are kept, so that the next look reads only what was committed since."""

    def __init__(
        self, lake: Lake, skus: SkuStage, invoices: InvoiceStage, of_features: Sequence[FeatureStage], partitions: int
    ) -> None:
        self._lake = lake
        self._skus = skus
        self._invoices = invoices
        self._of_features = of_features
        self._buckets = range(partitions)
        self._watches: dict[str, FencedLog] = {}

    def look(self) -> LakeProgress:
        """Positions, and whether all that is committed is derived."""
        buckets = self._buckets
        positions: dict[tuple[str, int], int] = {}
        epochs: dict[str, dict[int, int]] = {}
        sent: dict[int, int] = {}
        price_rows = 0
        prices_used: dict[int, int] = {}
        for stage in (self._skus, self._invoices, *self._of_features):
            ids = {f"offset:{t}:{b}": (t, b) for t in stage.topics for b in buckets}
            fence = {stage.epoch_id(b): b for b in buckets}
            cursors = {f"{output.name}:{b}": b for output in self._invoices.outputs for b in buckets}
            row_ids = tuple(f"{ROWS_ID}:{b}" for b in buckets)
            price_ids = {f"{PRICES_ID}:{b}": b for b in buckets}
            stored = self._stored(stage.log_name, (*ids, *fence, *cursors, *row_ids, *price_ids))
            positions |= {place: stored[i] for i, place in ids.items() if i in stored}
            epochs[stage.name] = {b: stored[i] for i, b in fence.items() if i in stored}
            if stage is self._skus:
                price_rows = sum(stored.get(i, 0) for i in row_ids)
            if stage is self._invoices:
                prices_used = {b: stored.get(i, 0) for i, b in price_ids.items()}
                sent = {b: min(stored.get(i, 0) for i, of in cursors.items() if of == b) for b in buckets}
        settled = all(sent[b] >= e and prices_used[b] >= price_rows for b, e in epochs[self._invoices.name].items())
        derived = True
        for stage in self._of_features:
            for feature_set in stage.feature_sets:
                cursor_ids = {f"cursor:{b}": b for b in buckets}
                stored = self._stored(changes_name(feature_set), tuple(cursor_ids))
                cursor_of = {b: stored.get(i, 0) for i, b in cursor_ids.items()}
                derived = derived and all(cursor_of[b] >= e for b, e in epochs[stage.name].items())
        return LakeProgress(positions=positions, documents_settled=settled, features_settled=derived)

    def _stored(self, table: str, ids: tuple[str, ...]) -> Mapping[str, int]:
        if table not in self._watches:
            self._watches[table] = self._lake.fenced(table)
        return self._watches[table].stored(ids)
