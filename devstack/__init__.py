"""The embedded Kafka, database and S3 server for demo and tests; nothing here is needed in production."""
