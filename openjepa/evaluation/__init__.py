"""What a frozen encoder is worth on labelled tasks: so far, linear probes beside their controls."""
