"""`trs doctor`: one look at everything that a running installation needs; it changes nothing anywhere."""
