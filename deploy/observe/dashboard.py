"""Writes dashboard.json beside this file: the Grafana dashboard of the workers' metrics.

python -m deploy.observe.dashboard > deploy/observe/dashboard.json
"""

import json
import sys

_WIDE, _HIGH = 12, 8
PANELS: tuple[tuple[str, str, str, str], ...] = (
    ("Freshness", "s", "max by (stage) (trs_freshness_seconds)", "{{stage}}"),
    ("Records that wait", "short", "sum by (topic) (trs_lag_records)", "{{topic}}"),
    ("Records read", "ops", "sum by (stage, outcome) (rate(trs_events_total[5m]))", "{{stage}} {{outcome}}"),
    (
        "Epochs, 95th percentile",
        "s",
        "histogram_quantile(0.95, sum by (stage, le) (rate(trs_epoch_duration_seconds_bucket[5m])))",
        "{{stage}}",
    ),
    (
        "Where epochs spend their time",
        "s",
        "sum by (stage, step) (rate(trs_epoch_step_seconds_sum[5m]))",
        "{{stage}} {{step}}",
    ),
    ("Rows written", "ops", "sum by (stage) (rate(trs_log_rows_total[5m]))", "{{stage}}"),
    ("Ready workers", "short", "sum(trs_ready)", "ready"),
    ("What is wrong", "short", "sum by (condition) (trs_trouble)", "{{condition}}"),
    ("Dead letters", "short", "sum by (reason) (increase(trs_dead_letters_total[1h]))", "{{reason}}"),
    (
        "Commits refused",
        "short",
        "sum by (table, outcome) (increase(trs_commit_conflicts_total[5m]))",
        "{{table}} {{outcome}}",
    ),
    ("Rows that wait for a fold", "short", "max by (table) (trs_fold_debt_rows)", "{{table}}"),
    ("Files per table", "short", "max by (table) (trs_table_files)", "{{table}}"),
    (
        "Rows that differ from the source",
        "short",
        "max by (table) (trs_reconciliation_differing_rows)",
        "{{table}}",
    ),
    ("Checks that failed", "short", "max(trs_quality_checks_failed)", "checks"),
    ("Upkeep that failed", "short", "max(trs_upkeep_failed)", "tables"),
    ("State, share of its budget", "percentunit", "trs_state_bytes / trs_state_budget_bytes", "{{instance}}"),
    ("Memory", "bytes", "process_resident_memory_bytes", "{{instance}}"),
    ("Processor", "percentunit", "rate(process_cpu_seconds_total[5m])", "{{instance}}"),
)
"""Title, unit, expression, legend."""


def dashboard() -> dict[str, object]:
    """Grafana's JSON model; the data source is chosen when it is imported."""
    source = {"type": "prometheus", "uid": "${source}"}
    return {
        "title": "trs-stream",
        "uid": "trs-stream",
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {
            "list": [{"name": "source", "type": "datasource", "query": "prometheus", "label": "Prometheus"}]
        },
        "panels": [
            {
                "id": place + 1,
                "type": "timeseries",
                "title": title,
                "datasource": source,
                "gridPos": {"x": place % 2 * _WIDE, "y": place // 2 * _HIGH, "w": _WIDE, "h": _HIGH},
                "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
                "targets": [{"refId": "A", "datasource": source, "expr": expression, "legendFormat": legend}],
            }
            for place, (title, unit, expression, legend) in enumerate(PANELS)
        ],
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(dashboard(), indent=2) + "\n")
