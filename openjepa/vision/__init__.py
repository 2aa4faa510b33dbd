"""The encoder, the predictor, and what they are made of."""
