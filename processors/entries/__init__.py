"""The lake as a catalogue of other engines shows it: entries of tables and views, types, statements that make them."""
