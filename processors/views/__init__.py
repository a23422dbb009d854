"""What people read: SQL views over the lake's tables, always exact."""
