"""What an operator runs: a local Kafka, the topics, data in, lists out."""
