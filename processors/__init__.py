"""What happens to rows: decode, order, state, epochs, documents, features. Pure: no SDK, no connector, no clock of its own."""
