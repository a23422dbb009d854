"""The `trs` command: one module per group of commands, loaded only when called."""
