"""Methods and settings side by side: same backbone, same data, same budget, same probes, one table."""
