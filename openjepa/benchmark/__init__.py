"""How fast each room is on this machine: masks, scenes, loading, training steps."""
