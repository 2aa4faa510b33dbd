"""Images: where they lie, how they are decoded, and how they become batches."""
