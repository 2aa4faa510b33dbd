"""What an encoder is worth on labelled tasks, beside raw pixels and the same architecture untrained."""
