"""Foreign weight formats, translated at the door and nowhere else."""
