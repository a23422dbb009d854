"""What watches the workers: a Grafana dashboard and alert rules."""
