"""What happens to rows: decode, order, state, epochs, documents, features. No SDK and no connector is imported here."""
